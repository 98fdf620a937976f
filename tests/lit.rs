//! Tests of the passes on text: every `.mlir` file in `tests/lit/<pass>/` holds its command in `// RUN:` lines.
//!
//! A command is a pipeline of `athanor …`, `not` (the command must fail, but not crash) and `FileCheck`, which is
//! LLVM's. `%s` is the file, `%t` a fresh folder; `2>&1` joins standard error; a `\` at the end continues the command
//! on the next RUN line. `cargo test --test lit dce` runs one folder.

use libtest_mimic::{Arguments, Failed, Trial};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lit");
    let mut files = vec![];
    if let Err(e) = collect(&root, &mut files) {
        eprintln!("cannot list {}: {e}", root.display());
        return ExitCode::FAILURE;
    }
    files.sort();
    let mut trials: Vec<Trial> = files
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap_or(&path).with_extension("").to_string_lossy().into_owned();
            Trial::test(name, move || run_file(&path).map_err(Failed::from))
        })
        .collect();
    trials.extend(own_tests());
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "mlir") {
            files.push(path);
        }
    }
    Ok(())
}

/// The commands of a test file, continuation lines joined.
fn commands(text: &str) -> Result<Vec<String>, String> {
    let mut commands: Vec<String> = vec![];
    let mut open = false;
    for line in text.lines().filter_map(|l| l.trim_start().strip_prefix("// RUN:")) {
        let (line, more) = match line.trim().strip_suffix('\\') {
            Some(line) => (line.trim_end(), true),
            None => (line.trim(), false),
        };
        match commands.last_mut().filter(|_| open) {
            Some(last) => *last = format!("{last} {line}"),
            None => commands.push(line.to_owned()),
        }
        open = more;
    }
    if open {
        return Err("the last RUN line ends with a backslash".into());
    }
    if commands.is_empty() { Err("the file has no `// RUN:` line".into()) } else { Ok(commands) }
}

fn run_file(path: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let scratch = tempfile::tempdir().map_err(|e| e.to_string())?;
    for command in commands(&text)? {
        run_command(&command, path, scratch.path()).map_err(|e| format!("RUN: {command}\n{e}"))?;
    }
    Ok(())
}

/// Splits at blanks outside of quotes; `|` between blanks is a word of its own.
fn words(command: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (vec![], None::<String>, None);
    for c in command.chars() {
        match (quote, c) {
            (Some(q), c) if q == c => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".into());
    }
    words.extend(word);
    Ok(words)
}

fn run_command(command: &str, file: &Path, scratch: &Path) -> Result<(), String> {
    let (file, scratch) = (file.to_string_lossy(), scratch.to_string_lossy());
    let words: Vec<String> = words(command)?.iter().map(|w| w.replace("%s", &file).replace("%t", &scratch)).collect();
    let mut input: Vec<u8> = vec![];
    for stage in words.split(|w| w == "|") {
        input = run_stage(stage, &input)?;
    }
    Ok(())
}

/// Runs one stage of a pipeline on `input`; its output.
fn run_stage(stage: &[String], input: &[u8]) -> Result<Vec<u8>, String> {
    let mut words: Vec<&str> = stage.iter().map(String::as_str).collect();
    let join = words.contains(&"2>&1");
    words.retain(|w| *w != "2>&1");
    let must_fail = words.first() == Some(&"not");
    let words = &words[usize::from(must_fail)..];
    let Some((program, args)) = words.split_first() else { return Err("a stage of the pipeline is empty".into()) };
    let program = match *program {
        "athanor" => PathBuf::from(env!("CARGO_BIN_EXE_athanor")),
        "FileCheck" => file_check()?,
        other => return Err(format!("a RUN line may run athanor and FileCheck, not {other:?}")),
    };
    let mut child = Command::new(&program)
        .args(args)
        .env("NO_COLOR", "1")
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{}: {e}", program.display()))?;
    let mut stdin = child.stdin.take();
    let (output, _) = std::thread::scope(|s| {
        let feed = s.spawn(move || {
            // A program that does not read its input to the end is judged by its exit status.
            stdin.take().map(|mut to| std::io::Write::write_all(&mut to, input))
        });
        (child.wait_with_output(), feed.join())
    });
    let output = output.map_err(|e| e.to_string())?;
    let told = String::from_utf8_lossy(&output.stderr);
    match (output.status.code(), must_fail) {
        (Some(0), false) | (Some(1..=100), true) => {}
        (Some(0), true) => return Err(format!("{words:?} should have failed")),
        (Some(code), _) => return Err(format!("{words:?} failed with {code}:\n{told}")),
        (None, _) => return Err(format!("{words:?} crashed ({}):\n{told}", output.status)),
    }
    let mut out = output.stdout;
    if join {
        out.extend(&output.stderr);
    }
    Ok(out)
}

/// LLVM's FileCheck: from the environment, the path, or where Debian puts it.
fn file_check() -> Result<PathBuf, String> {
    if let Some(given) = std::env::var_os("FILECHECK") {
        return Ok(given.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).chain(["/usr/lib/llvm-22/bin".into()]).collect();
    let names = ["FileCheck-22", "FileCheck"];
    let candidates = names.iter().flat_map(|n| folders.iter().map(move |f| f.join(n)));
    candidates.into_iter().find(|c| c.is_file()).ok_or_else(|| {
        "T0001: LLVM's FileCheck is missing. `make setup` installs it (Debian package llvm-22-tools); a FileCheck \
         elsewhere can be named by the variable FILECHECK."
            .into()
    })
}

/// Tests of this runner: that it can fail.
fn own_tests() -> Vec<Trial> {
    let module = "func.func @f(%a: tensor<2xf32>) -> tensor<2xf32> {\n  return %a : tensor<2xf32>\n}\n";
    let file = move |head: &str| -> Result<(), String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let path = dir.path().join("t.mlir");
        std::fs::write(&path, format!("{head}\n{module}")).map_err(|e| e.to_string())?;
        run_file(&path)
    };
    let run = "// RUN: athanor opt --passes '' %s";
    let cases: [(&str, String, Option<&str>); 8] = [
        ("a check that holds", format!("{run} | FileCheck %s\n// CHECK: func.func @f"), None),
        (
            "a check that does not",
            format!("{run} | FileCheck %s\n// CHECK: func.func @g"),
            Some("expected string not found"),
        ),
        ("no command", "// CHECK: x".into(), Some("no `// RUN:` line")),
        ("an unknown program", "// RUN: rm %s".into(), Some("not \"rm\"")),
        ("a failing command", "// RUN: athanor opt --passes nonsense %s".into(), Some("failed with 1")),
        ("a command that should fail", format!("// RUN: not {}", &run[8..]), Some("should have failed")),
        ("a failure that is expected", "// RUN: not athanor opt --passes nonsense %s".into(), None),
        ("an open quote", "// RUN: athanor 'opt".into(), Some("quote")),
    ];
    let trial = |(name, head, want): (&str, String, Option<&'static str>)| {
        Trial::test(format!("runner: {name}"), move || match (file(&head), want) {
            (Ok(()), None) => Ok(()),
            (Err(e), Some(want)) if e.contains(want) => Ok(()),
            (other, _) => Err(format!("wanted {want:?}, got {other:?}").into()),
        })
    };
    cases.into_iter().map(trial).collect()
}
