use super::*;
use crate::data::dtype::TokenType;
use crate::data::indexed::IndexedDataset;
use crate::data::tokenizer::{TrainOptions, train};
use std::io::Write;
use tempfile::TempDir;

/// A directory with a small byte-level tokenizer.
fn workspace() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("train.txt"), "hello world the cat sat on the mat ".repeat(20)).unwrap();
    let o = TrainOptions {
        input: InputOptions::new(vec![path(&dir, "train.txt")]),
        vocab_size: 280,
        output: dir.path().join("tokenizer.json"),
        ..TrainOptions::default()
    };
    train(&o, &mut |_| ()).unwrap();
    dir
}

fn path(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).to_string_lossy().into_owned()
}

fn file(dir: &TempDir, name: &str, text: impl AsRef<[u8]>) -> BuildOptions {
    std::fs::write(dir.path().join(name), text).unwrap();
    BuildOptions {
        input: InputOptions::new(vec![path(dir, name)]),
        tokenizer: dir.path().into(),
        output_prefix: dir.path().join("out/set"),
        ..BuildOptions::default()
    }
}

fn run(o: &BuildOptions) -> Result<BuildReport> {
    build(o, &mut |_| ())
}

/// All sequences, by document, as text; `|` stands for the end-of-document token.
fn texts(dir: &TempDir, prefix: &Path) -> Vec<Vec<String>> {
    let tokenizer = encode::load(dir.path()).unwrap().0;
    let d = IndexedDataset::open(prefix, false).unwrap();
    let text = |i| {
        let mut ids = vec![0; d.length(i) as usize];
        d.read(i, 0, &mut ids).unwrap();
        let ids: Vec<u32> = ids.iter().map(|&t| t as u32).collect();
        tokenizer.decode(&ids, false).unwrap().replace("<|endoftext|>", "|")
    };
    (0..d.documents()).map(|k| (d.document_start(k)..d.document_start(k + 1)).map(text).collect()).collect()
}

fn built(dir: &TempDir, o: &BuildOptions) -> Vec<Vec<String>> {
    texts(dir, &run(o).unwrap().datasets[0].prefix)
}

#[test]
fn each_jsonl_line_is_a_document() {
    let dir = workspace();
    let o = file(&dir, "a.jsonl", "{\"text\": \"hello\"}\n\n{\"id\": 7, \"text\": \"the\\ncat é\"}\n");
    assert_eq!(built(&dir, &o), [["hello"], ["the\ncat é"]]);
    let o = BuildOptions { append_eod: true, overwrite: true, dtype: TokenType::Uint16, ..o };
    assert_eq!(built(&dir, &o), [["hello|"], ["the\ncat é|"]]);
    assert_eq!(
        IndexedDataset::open(&dir.path().join("out/set_text_document"), false).unwrap().dtype(),
        TokenType::Uint16
    );
}

#[test]
fn each_key_gives_a_dataset_and_a_list_several_sequences() {
    let dir = workspace();
    let mut o =
        file(&dir, "a.jsonl", "{\"q\": \"hello\", \"a\": [\"the cat\", \"sat\"]}\n{\"q\": \"\", \"a\": [\"on\"]}\n");
    o.input.json_keys = vec!["q".into(), "a".into()];
    o.append_eod = true;
    let report = run(&o).unwrap();
    assert_eq!((report.documents, report.empty), (2, 0));
    assert_eq!(texts(&dir, &report.datasets[0].prefix), [["hello|"]]);
    assert_eq!(texts(&dir, &report.datasets[1].prefix), [vec!["the cat", "sat|"], vec!["on|"]]);
    assert!(report.datasets[1].prefix.ends_with("out/set_a_document"));
}

#[test]
fn text_files_are_cut_into_lines_paragraphs_or_not_at_all() {
    let dir = workspace();
    let mut o = file(&dir, "a.txt", "\u{feff}hello\r\nworld\r\n\r\n \r\nthe cat\r\n");
    o.overwrite = true;
    assert_eq!(built(&dir, &o), [["hello\nworld"], ["the cat"]]);
    o.input.text_unit = TextUnit::Line;
    assert_eq!(built(&dir, &o), [["hello"], ["world"], ["the cat"]]);
    o.input.text_unit = TextUnit::File;
    o.append_eod = true;
    assert_eq!(built(&dir, &o), [["hello\nworld\n\n \nthe cat\n|"]]);
}

#[test]
fn a_long_file_is_one_document_all_the_same() {
    let dir = workspace();
    let text = "the cat sat on the mat\n".repeat(40_000);
    let mut o = file(&dir, "a.txt", &text);
    o.input.text_unit = TextUnit::File;
    (o.append_eod, o.add_eos_token, o.add_bos_token) = (true, true, true);
    assert_eq!(built(&dir, &o), [[format!("|{text}||")]]);
    // A part that ends exactly with the file must not lose the end of the document.
    let line = "a".repeat(1023) + "\n";
    let exact = BuildOptions { overwrite: true, ..file(&dir, "a.txt", line.repeat(256)) };
    let exact = BuildOptions { input: o.input, append_eod: true, ..exact };
    assert_eq!(built(&dir, &exact), [[line.repeat(256) + "|"]]);
}

#[test]
fn stitching_cuts_all_tokens_into_equal_sequences() {
    let dir = workspace();
    let o = file(&dir, "a.txt", "hello\n\nworld\n\nthe cat sat on the mat\n");
    let o = BuildOptions { layout: SequenceLayout::Stitch, seq_length: 3, append_eod: true, ..o };
    let report = run(&o).unwrap();
    let d = IndexedDataset::open(&report.datasets[0].prefix, false).unwrap();
    assert!((0..d.sequences()).all(|i| d.length(i) == 4) && d.documents() == d.sequences());
    let all = texts(&dir, &report.datasets[0].prefix).concat().concat();
    assert!("hello|world|the cat sat on the mat|".starts_with(&all) && report.dropped_tokens < 4);
}

#[test]
fn padding_fills_and_cuts_each_document() {
    let dir = workspace();
    let o = file(&dir, "a.txt", "hello\n\nthe cat sat on the mat the cat sat on the mat\n");
    let o = BuildOptions { layout: SequenceLayout::Pad, seq_length: 6, ..o };
    let report = run(&o).unwrap();
    let d = IndexedDataset::open(&report.datasets[0].prefix, false).unwrap();
    assert_eq!((d.sequences(), d.length(0), d.length(1)), (2, 7, 7));
    let documents = texts(&dir, &report.datasets[0].prefix);
    assert!(documents[0][0].starts_with("hello|||") && documents[1][0].starts_with("the cat sat"));
}

#[test]
fn wikitext_is_cleaned_and_headings_are_dropped() {
    let dir = workspace();
    let raw = " \n = Title = \n \n hello , world ( the cat ) . \n \n = = Part = = \n \n the \" mat \" \n on \n ";
    let o = file(&dir, "wiki.train.tokens", raw);
    let o = BuildOptions { layout: SequenceLayout::Documents, ..o };
    assert_eq!(built(&dir, &o), [["hello, world (the cat)."], ["the \"mat\"\non\n"]]);
}

#[test]
fn the_order_does_not_depend_on_the_workers() {
    let dir = workspace();
    let line = |i: usize| format!("{{\"text\": \"the cat {i} {}\"}}\n", "sat ".repeat(i % 50));
    let lines = (0..5000).map(line).collect::<Vec<_>>().concat();
    let o = BuildOptions { overwrite: true, ..file(&dir, "a.jsonl", lines) };
    let bytes = |workers| {
        run(&BuildOptions { workers, ..o.clone() }).unwrap();
        [".bin", ".idx"].map(|e| std::fs::read(with_extension(&dir.path().join("out/set_text_document"), e)).unwrap())
    };
    let one = bytes(1);
    assert!(one == bytes(4) && one[0].len() > 100_000);
}

#[test]
fn patterns_and_compressed_files_are_read() {
    let dir = workspace();
    let mut gz = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    gz.write_all(b"{\"text\": \"world\"}\n").unwrap();
    std::fs::write(dir.path().join("b.jsonl.gz"), gz.finish().unwrap()).unwrap();
    let mut o = file(&dir, "a.jsonl", "{\"text\": \"hello\"}");
    o.input.paths = vec![path(&dir, "*.jsonl*")];
    let mut last = Progress::default();
    let report = build(&o, &mut |p| last = p).unwrap();
    assert_eq!(texts(&dir, &report.datasets[0].prefix), [["hello"], ["world"]]);
    assert_eq!((last.documents, last.bytes, last.tokens), (2, last.total_bytes, report.datasets[0].tokens));
    std::fs::write(dir.path().join("b.jsonl.gz"), b"\x1f\x8b\x08\0garbage").unwrap();
    assert_eq!(run(&BuildOptions { overwrite: true, ..o }).unwrap_err().code.id, "D0002");
}

#[test]
fn bad_input_names_its_place_and_leaves_nothing() {
    let dir = workspace();
    let cases: [(&[u8], &str); 6] = [
        (b"{\"text\": \"a\"}\n{\"text\": oops}\n", "line 2, byte 23"),
        (b"{\"text\": \"a\"}\n{\"body\": \"b\"}\n", "line 2, byte 14"),
        (b"{\"text\": \"a\"}\n\n{\"text\": 5}\n", "line 3, byte 15"),
        (b"{\"text\": [\"a\", 1]}\n", "line 1, byte 0"),
        (b"[1, 2]\n", "line 1, byte 0"),
        (b"{\"text\": \"\xff\"}\n", "line 1"),
    ];
    for (text, place) in cases {
        let e = run(&file(&dir, "a.jsonl", text)).unwrap_err();
        assert!(e.code.id == "D0014" && e.message.contains("a.jsonl") && e.message.contains(place), "{}", e.message);
        assert_eq!(std::fs::read_dir(dir.path().join("out")).unwrap().count(), 0);
    }
    let e = run(&file(&dir, "a.txt", b"fine\n\nab\xff\n")).unwrap_err();
    assert!(e.message.contains("line 3, byte 8"), "{}", e.message);
    let mut long = file(&dir, "a.txt", "word ".repeat(100));
    long.input.max_document_bytes = 100;
    assert_eq!(run(&long).unwrap_err().code.id, "D0014");
    assert_eq!(run(&file(&dir, "a.txt", "\n \n")).unwrap_err().code.id, "D0014");
    assert_eq!(std::fs::read_dir(dir.path().join("out")).unwrap().count(), 0);
}

#[test]
fn missing_tokenizers_and_tokens_are_named() {
    let dir = workspace();
    let o = file(&dir, "a.txt", "hello");
    let code = |o: &BuildOptions| run(o).unwrap_err().code.id;
    assert_eq!(code(&BuildOptions { tokenizer: dir.path().join("none.json"), ..o.clone() }), "D0001");
    assert_eq!(code(&BuildOptions { tokenizer: dir.path().join("a.txt"), ..o.clone() }), "D0015");
    for json in [
        "{}",
        "[]",
        "{\"model\": {}}",
        "{\"model\": {\"type\": \"BPE\", \"vocab\": {}, \"merges\": []}, \"version\": 1}",
    ] {
        std::fs::write(dir.path().join("bad.json"), json).unwrap();
        assert_eq!(code(&BuildOptions { tokenizer: dir.path().join("bad.json"), ..o.clone() }), "D0015", "{json}");
    }
    let eos = Some("<none>".to_string());
    assert_eq!(code(&BuildOptions { append_eod: true, eos_token: eos, ..o.clone() }), "D0015");
    std::fs::remove_file(dir.path().join("tokenizer_config.json")).unwrap();
    assert_eq!(code(&BuildOptions { append_eod: true, ..o.clone() }), "D0015");
    let eos = Some("<|endoftext|>".to_string());
    run(&BuildOptions { append_eod: true, eos_token: eos, ..o }).unwrap();
}

#[test]
fn existing_datasets_and_narrow_types_are_refused() {
    let dir = workspace();
    let o = file(&dir, "a.txt", "hello");
    assert_eq!(run(&BuildOptions { dtype: TokenType::Uint8, ..o.clone() }).unwrap_err().code.id, "D0016");
    run(&o).unwrap();
    assert_eq!(run(&o).unwrap_err().code.id, "D0018");
    let mut keys = o.clone();
    keys.input.json_keys = vec!["a/b".into()];
    assert_eq!(run(&keys).unwrap_err().code.id, "D0017");
    let zero = BuildOptions { layout: SequenceLayout::Stitch, seq_length: 0, ..o };
    assert_eq!(run(&zero).unwrap_err().code.id, "D0017");
}

#[test]
fn the_tokenizers_own_special_tokens_are_added() {
    let dir = workspace();
    let text = std::fs::read_to_string(dir.path().join("tokenizer.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["post_processor"] = serde_json::json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}}
    });
    std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    let o = BuildOptions { overwrite: true, ..file(&dir, "a.txt", "hello\n\nworld") };
    assert_eq!(built(&dir, &o), [["|hello"], ["|world"]]);
    assert_eq!(built(&dir, &BuildOptions { add_bos_token: true, ..o.clone() }), [["|hello"], ["|world"]]);
    let plain = BuildOptions { add_special_tokens: false, add_eos_token: true, ..o };
    assert_eq!(built(&dir, &plain), [["hello|"], ["world|"]]);
}
