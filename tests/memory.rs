//! What a run takes from the system: the arena of its plan, and little beside it.
#![cfg(all(target_os = "linux", feature = "compiler"))]

use athanor_runtime::metrics::memory::{BESIDE_ARENA, BESIDE_ARENA_WITH_LIBRARY};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::path::Path;
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn athanor(args: &[&str], dir: &Path) -> String {
    let run = Command::new(env!("CARGO_BIN_EXE_athanor")).current_dir(ROOT).args(args).arg(dir).output().unwrap();
    assert!(run.status.success(), "{args:?}: {}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).unwrap()
}

/// MiB before `word` on the line about memory.
fn mib(line: &str, word: &str) -> f64 {
    let before = line.split_once(word).unwrap_or_else(|| panic!("no {word:?} in {line:?}")).0;
    before.trim_end().trim_end_matches(" MiB").rsplit(' ').next().unwrap().parse().unwrap()
}

/// Writes a checkpoint of zeros that fits the plan.
fn write_weights(plan: &serde_json::Value, path: &Path) {
    let buffers = plan["stages"][0]["buffers"].as_array().unwrap();
    let zeros = vec![0; buffers.iter().map(|b| b["bytes"].as_u64().unwrap() as usize).max().unwrap()];
    let weights = buffers.iter().filter(|b| b["role"]["kind"] == "weight").map(|b| {
        let dims = b["dims"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect();
        let data = &zeros[..b["bytes"].as_u64().unwrap() as usize];
        (b["name"].as_str().unwrap(), TensorView::new(Dtype::F32, dims, data).unwrap())
    });
    safetensors::serialize_to_file(weights, None, path).unwrap();
}

/// A w1-tiny with a vocabulary that makes an arena of some hundred MiB, trained from its plan: compiling is over and gone
/// when memory is first looked at.
#[test]
fn the_process_grows_by_the_arena_and_a_stated_constant() {
    let dir = tempfile::tempdir().unwrap();
    let plan = dir.path().join("plan");
    let wide = ["--set", "load_checkpoint=", "--set", "model.model_config.vocab_size=65536", "--threads", "2", "-o"];
    athanor(&[&["compile", "examples/w1_tiny.yaml"], &wide[..]].concat(), &plan);
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(plan.join("plan.json")).unwrap()).unwrap();
    let arena = json["stages"][0]["arena_bytes"].as_u64().unwrap() as f64 / f64::from(1 << 20);
    assert!(arena > 100.0, "{arena} MiB would say little");
    // A run that starts from a checkpoint grows no more than one that draws its weights.
    let weights = dir.path().join("weights.safetensors");
    write_weights(&json, &weights);
    let loads = dir.path().join("loads");
    let load = format!("load_checkpoint={}", weights.display());
    athanor(&["compile", "examples/w1_tiny.yaml", "--set", &load, "--set", wide[3], "--threads", "2", "-o"], &loads);
    // So does one that keeps values and the optimizer's state on the host, in a smaller arena.
    let swaps = dir.path().join("swaps");
    let swap = ["--set", "swap_config.swap=True", "--set", "optimizer.swap=True"];
    athanor(&[&["compile", "examples/w1_tiny.yaml"], &swap[..], &wide[..]].concat(), &swaps);
    let mib_of = |plan: &Path, what: &str| {
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(plan.join("plan.json")).unwrap()).unwrap();
        json["stages"][0][what].as_u64().unwrap_or(0) as f64 / f64::from(1 << 20)
    };
    let host = mib_of(&swaps, "host_bytes");
    assert!(host > 30.0 && mib_of(&swaps, "arena_bytes") < arena - 10.0, "{host} MiB on the host");
    for (plan, args, most) in [
        (&plan, &["--no-library"][..], BESIDE_ARENA),
        (&plan, &[], BESIDE_ARENA_WITH_LIBRARY),
        (&loads, &["--no-library"], BESIDE_ARENA),
        (&swaps, &["--no-library"], BESIDE_ARENA),
    ] {
        let out = ["train", plan.to_str().unwrap(), "--steps", "3"];
        let text = athanor(&[&out[..], args, &["--output-dir"]].concat(), &dir.path().join("out"));
        let line = text.lines().find(|l| l.starts_with("memory: ")).unwrap_or_else(|| panic!("{text}"));
        let grown = mib(line, " at its peak") - mib(line, " before");
        let most = most as f64 / f64::from(1 << 20);
        let (arena, host) = (mib_of(plan, "arena_bytes"), mib_of(plan, "host_bytes"));
        let planned = arena + host;
        // Every page of the arenas is resident: the process cannot have grown by less.
        assert!(
            grown >= planned - 0.5 && grown <= planned + most,
            "{line}: at most {most} MiB beside {planned:.1} MiB"
        );
        assert_eq!(line.contains("on the host"), host > 0.0, "{line}");
        assert!((mib(line, " as planned") - arena).abs() < 0.1, "{line}");
    }
}

/// Bytes beside its arena that a rank which is a thread may take: the stacks of its workers, its part of messages, a batch.
const BESIDE_ARENA_OF_A_RANK: f64 = 3.0;

#[test]
fn ranks_of_a_mesh_grow_by_their_arenas_and_a_stated_constant() {
    let dir = tempfile::tempdir().unwrap();
    let cut = [
        "use_parallel=True",
        "parallel_config.pipeline_stage=2",
        "parallel_config.data_parallel=2",
        "parallel_config.model_parallel=2",
        "parallel_config.micro_batch_num=2",
        "runner_config.batch_size=1",
    ];
    let set = ["load_checkpoint=", "model.model_config.vocab_size=16384"];
    for (name, more) in [("replicas", &[][..]), ("shared", &["parallel.enable_parallel_optimizer=True"])] {
        let plan = dir.path().join(name);
        let changes = set.iter().chain(&cut).chain(more).flat_map(|c| ["--set", *c]);
        let args: Vec<&str> =
            ["compile", "examples/w1_tiny.yaml", "--threads", "2"].into_iter().chain(changes).collect();
        athanor(&[&args[..], &["-o"]].concat(), &plan);
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(plan.join("plan.json")).unwrap()).unwrap();
        let stages = json["stages"].as_array().unwrap();
        let arenas: Vec<f64> = stages.iter().map(|s| s["arena_bytes"].as_u64().unwrap() as f64).collect();
        // Four ranks of each stage.
        let planned = 4.0 * arenas.iter().sum::<f64>() / f64::from(1 << 20);
        let args = ["train", plan.to_str().unwrap(), "--devices", "8", "--steps", "3", "--no-library", "--output-dir"];
        let text = athanor(&args, &dir.path().join("out"));
        let line = text.lines().find(|l| l.starts_with("memory: ")).unwrap_or_else(|| panic!("{text}"));
        let grown = mib(line, " at its peak") - mib(line, " before");
        let most = BESIDE_ARENA as f64 / f64::from(1 << 20) + 8.0 * BESIDE_ARENA_OF_A_RANK;
        assert!(grown >= planned - 0.5 && grown <= planned + most, "{line}: {planned:.1} MiB planned");
        assert!((mib(line, " as planned") - planned).abs() < 0.1, "{line}: {planned:.1}");
    }
}
