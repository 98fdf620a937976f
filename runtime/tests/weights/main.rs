//! Checkpoints of the golden models: into a plan's buffers and out again, and from one naming to another, bit for bit.

mod families;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use athanor_backends::cpu::device::{CpuDevice, DeviceOptions};
use athanor_frontend::config::Layouts;
use athanor_frontend::model::names::tables;
use athanor_ir::names::NameTable;
use athanor_ir::plan::{Buffer, BufferRole, Plan, Stage, Target, VERSION};
use athanor_ir::run::RunSpec;
use athanor_ir::target::CpuLevel;
use athanor_ir::{Init, Memory, Mesh, Sharding};
use athanor_runtime::checkpoint::convert::{Checkpoint, Opening, convert};
use athanor_runtime::checkpoint::mapping::Weight;
use athanor_runtime::checkpoint::{Saver, State, load_weights};
use athanor_runtime::loss_scale::Scaling;
use athanor_runtime::team::Gathered;
use safetensors::SafeTensors;

const MODELS: [&str; 10] = [
    "llama2",
    "llama3_1",
    "qwen2_tied",
    "qwen3",
    "gpt2",
    "mixtral",
    "qwen3_moe",
    "deepseek_v3_rope",
    "deepseek_v3_yarn",
    "deepseek_v3_mtp",
];

fn golden(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(model)
}

fn names(model: &str, layouts: Layouts) -> Vec<NameTable> {
    let text = std::fs::read(golden(model).join("config.json")).unwrap();
    tables(&serde_json::from_slice(&text).unwrap(), layouts)
}

/// Dims and bytes of every tensor of the safetensors files in `dir`.
fn tensors(dir: &Path) -> HashMap<String, (Vec<usize>, Vec<u8>)> {
    let mut all = HashMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("model") && name.ends_with(".safetensors") {
            let bytes = std::fs::read(&path).unwrap();
            for (name, t) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
                assert!(all.insert(name, (t.shape().to_vec(), t.data().to_vec())).is_none());
            }
        }
    }
    all
}

/// The tensors of a golden model.
fn original(model: &str) -> HashMap<String, (Vec<usize>, Vec<u8>)> {
    let bytes = std::fs::read(golden(model).join("model.safetensors")).unwrap();
    let parsed = SafeTensors::deserialize(&bytes).unwrap();
    parsed.tensors().into_iter().map(|(n, t)| (n, (t.shape().to_vec(), t.data().to_vec()))).collect()
}

/// `found` must be `want`; what is there beside it must be a copy of the embedding or the output layer.
fn same(model: &str, found: &HashMap<String, (Vec<usize>, Vec<u8>)>, want: &HashMap<String, (Vec<usize>, Vec<u8>)>) {
    for (name, t) in want {
        assert_eq!(found.get(name), Some(t), "{model}: {name}");
    }
    for (name, t) in found.iter().filter(|(n, _)| !want.contains_key(*n)) {
        let of = match name.rsplit_once("layers.3.").map(|(_, n)| n) {
            Some("embed_tokens.weight") => "model.embed_tokens.weight",
            Some("shared_head.head.weight") => "lm_head.weight",
            _ => panic!("{model}: {name} was not there"),
        };
        assert_eq!(t, &want[of], "{model}: {name}");
    }
}

/// A device with nothing but buffers for `weights`, named on disk as `weights_on_disk` says.
fn device(weights: &[Weight], names: Vec<NameTable>) -> CpuDevice {
    let mut stage = Stage { arena_bytes: 0, host_bytes: 0, buffers: vec![], programs: vec![], pipeline: None };
    for w in weights {
        let bytes = w.dims.iter().product::<usize>() * w.dtype.bytes();
        stage.buffers.push(Buffer {
            name: w.name.clone(),
            dtype: w.dtype,
            dims: w.dims.clone(),
            memory: Memory::Device,
            offset: stage.arena_bytes,
            bytes,
            role: BufferRole::Weight { init: Init::Constant { value: 0.0 } },
            sharding: Sharding::default(),
            live: None,
        });
        stage.arena_bytes += bytes.next_multiple_of(64);
    }
    let plan = Plan {
        version: VERSION,
        config_hash: "0".repeat(64),
        compiler: "by hand".into(),
        model: "weights".into(),
        target: Target { device: "cpu".into(), cpu: CpuLevel::Portable, threads: 1 },
        mesh: Mesh::default(),
        stages: vec![stage],
        kernels: vec![],
        run: RunSpec { weights: names, ..RunSpec::for_tests() },
    };
    CpuDevice::new(Arc::new(plan), 0, &DeviceOptions::default()).unwrap()
}

fn state() -> State {
    State {
        epoch_num: 1,
        step_num: 1,
        global_step: 1,
        scaling: Scaling { loss_scale: 1.0, good_steps: 0, skipped_steps: 0 },
        global_batch_size: 1,
        consumed_samples: 1,
        ckpt_status: 0,
    }
}

#[test]
fn every_golden_model_goes_through_a_plan_unchanged_whole_and_in_parts() {
    for model in MODELS {
        let tables = names(model, Layouts::default());
        let opened = Checkpoint::open(&golden(model), &Opening { tables: &tables, ..Opening::default() })
            .unwrap_or_else(|e| panic!("{model}: {e}"));
        let stacked = opened.weights.iter().any(|w| w.name.ends_with("mlp.experts.gate_proj") && w.dims.len() == 3);
        assert_eq!(stacked, model.contains("mix") || model.contains("moe") || model.contains("deepseek"), "{model}");
        let mut first = device(&opened.weights, tables.clone());
        load_weights(&mut first, 0, &golden(model)).unwrap_or_else(|e| panic!("{model}: {e}"));
        for limit in [u64::MAX, 20_000] {
            let temp = tempfile::tempdir().unwrap();
            let run = RunSpec { output_dir: temp.path().to_string_lossy().into_owned(), ..first.plan().run.clone() };
            let dir = Saver::new(&run).shards_of(limit).save(&first, &Gathered::default(), &state()).unwrap();
            assert_eq!(dir.join("model.safetensors.index.json").is_file(), limit < u64::MAX, "{model}");
            same(model, &tensors(&dir), &original(model));
            let mut second = device(&opened.weights, tables.clone());
            load_weights(&mut second, 0, &dir).unwrap_or_else(|e| panic!("{model}: {e}"));
            for i in 0..opened.weights.len() {
                assert_eq!(first.bytes(i), second.bytes(i), "{model}: {}", opened.weights[i].name);
            }
        }
    }
}

#[test]
fn mindformers_names_and_layouts_there_and_back() {
    let usual = Layouts::default();
    let other =
        Layouts { contiguous_attention: true, interleaved_mlp: false, mla_qkv_concat: true, flat_experts: false };
    for model in MODELS.into_iter().filter(|m| *m != "gpt2") {
        for layouts in [usual, other] {
            let tables = names(model, layouts);
            let opening = Opening { tables: &tables, ..Opening::default() };
            let temp = tempfile::tempdir().unwrap();
            let (mf, back) = (temp.path().join("mf"), temp.path().join("back"));
            let from = Checkpoint::open(&golden(model), &opening).unwrap();
            convert(&from, &tables[1], &mf, 40_000, &|_| ()).unwrap();
            let there = Checkpoint::open(&mf, &opening).unwrap_or_else(|e| panic!("{model}: {e}"));
            assert_eq!(there.table.name, "mindformers");
            assert!(there.tensors().names().all(|n| !n.contains("model.layers")), "{model}");
            convert(&there, &tables[0], &back, u64::MAX, &|_| ()).unwrap();
            same(model, &tensors(&back), &original(model));
            // A plan reads them as they are.
            let mut a = device(&from.weights, tables.clone());
            load_weights(&mut a, 0, &mf).unwrap_or_else(|e| panic!("{model}: {e}"));
            let mut b = device(&from.weights, tables.clone());
            load_weights(&mut b, 0, &golden(model)).unwrap();
            assert!((0..from.weights.len()).all(|i| a.bytes(i) == b.bytes(i)), "{model}");
        }
    }
}

fn f32s(t: &(Vec<usize>, Vec<u8>)) -> Vec<f32> {
    t.1.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Row `r` of a matrix.
fn row(t: &(Vec<usize>, Vec<u8>), r: usize) -> Vec<f32> {
    let width = t.0[1];
    f32s(t)[r * width..(r + 1) * width].to_vec()
}

#[test]
fn fused_layouts_are_those_of_the_description() {
    let convert_to = |model: &str, layouts| {
        let tables = names(model, layouts);
        let temp = tempfile::tempdir().unwrap();
        let from = Checkpoint::open(&golden(model), &Opening { tables: &tables, ..Opening::default() }).unwrap();
        convert(&from, &tables[1], &temp.path().join("mf"), u64::MAX, &|_| ()).unwrap();
        tensors(&temp.path().join("mf"))
    };
    // 4 heads of 16 in 2 groups: a group has 32 rows of q, 16 of k, 16 of v.
    let hub = original("qwen3_moe");
    let of = |n: &str| &hub[&format!("model.layers.1.{n}.weight")];
    let mf = convert_to("qwen3_moe", Layouts::default());
    let qkv = &mf["decoder.layers.1.self_attention.linear_qkv.weight"];
    assert_eq!(qkv.0, [128, 32]);
    for (r, from, at) in
        [(0, "q", 0), (31, "q", 31), (32, "k", 0), (48, "v", 0), (64, "q", 32), (96, "k", 16), (127, "v", 31)]
    {
        assert_eq!(row(qkv, r), row(of(&format!("self_attn.{from}_proj")), at), "row {r}");
    }
    let all = Layouts { contiguous_attention: true, flat_experts: false, ..Layouts::default() };
    let contiguous = convert_to("qwen3_moe", all);
    let qkv = &contiguous["decoder.layers.1.self_attention.linear_qkv.weight"];
    for (r, from, at) in [(63, "q", 63), (64, "k", 0), (96, "v", 0)] {
        assert_eq!(row(qkv, r), row(of(&format!("self_attn.{from}_proj")), at), "row {r}");
    }
    // 8 experts of 24 over 32: weight1[e, h, c] is gate[c, h], then up[c − 24, h]; weight2[e, f, h] is down[h, f].
    let (w1, w2) = (&mf["decoder.layers.1.mlp.experts.weight1"], &mf["decoder.layers.1.mlp.experts.weight2"]);
    assert_eq!((&w1.0[..], &w2.0[..]), (&[8 * 32, 48][..], &[8 * 24, 32][..]));
    assert_eq!(contiguous["decoder.layers.1.mlp.experts.weight1"].0, [8, 32, 48]);
    let expert = |n: &str| f32s(of(&format!("mlp.experts.5.{n}_proj")));
    let (gate, up, down) = (expert("gate"), expert("up"), expert("down"));
    for (h, f) in [(0, 0), (31, 23), (7, 11)] {
        assert_eq!(row(w1, 5 * 32 + h)[f], gate[f * 32 + h]);
        assert_eq!(row(w1, 5 * 32 + h)[24 + f], up[f * 32 + h]);
        assert_eq!(row(w2, 5 * 24 + f)[h], down[h * 24 + f]);
    }
    // Rows of gate and up alternate, or follow one another.
    let hub = original("deepseek_v3_mtp");
    let dense = |n: &str| &hub[&format!("model.layers.0.mlp.{n}_proj.weight")];
    let interleaved = convert_to("deepseek_v3_mtp", Layouts::default());
    let fc1 = &interleaved["decoder.layers.0.mlp.linear_fc1.weight"];
    assert!(row(fc1, 10) == row(dense("gate"), 5) && row(fc1, 11) == row(dense("up"), 5));
    let plain =
        convert_to("deepseek_v3_mtp", Layouts { interleaved_mlp: false, mla_qkv_concat: true, ..Layouts::default() });
    let fc1 = &plain["decoder.layers.0.mlp.linear_fc1.weight"];
    assert!(row(fc1, 5) == row(dense("gate"), 5) && row(fc1, 48 + 5) == row(dense("up"), 5));
    // 24 rows of the latent query, 16 of the latent key and value, 8 that are rotated.
    let latent = &plain["mtp.layers.0.transformer_layer.self_attention.linear_qkv.weight"];
    assert_eq!(latent.0, [48, 32]);
    assert_eq!(row(latent, 23), row(&hub["model.layers.3.self_attn.q_a_proj.weight"], 23));
    assert_eq!(row(latent, 24), row(&hub["model.layers.3.self_attn.kv_a_proj_with_mqa.weight"], 0));
    assert!(
        plain.contains_key("mtp.layers.0.final_layernorm.weight") && plain.contains_key("mtp.layers.0.eh_proj.weight")
    );
}

#[test]
fn half_precision_files_fill_full_precision_weights() {
    let tables = names("mixtral", Layouts::default());
    let opening = |dtype| Opening { tables: &tables, dtype, ..Opening::default() };
    let temp = tempfile::tempdir().unwrap();
    let full = Checkpoint::open(&golden("mixtral"), &opening(None)).unwrap();
    for (name, dtype) in [("bf16", athanor_ir::DType::BF16), ("f16", athanor_ir::DType::F16)] {
        let half = Checkpoint::open(&golden("mixtral"), &opening(Some(dtype))).unwrap();
        convert(&half, &tables[0], &temp.path().join(name), u64::MAX, &|_| ()).unwrap();
        let mut d = device(&full.weights, tables.clone());
        load_weights(&mut d, 0, &temp.path().join(name)).unwrap();
        let (mut worst, mut exact) = (0f32, device(&full.weights, tables.clone()));
        load_weights(&mut exact, 0, &golden("mixtral")).unwrap();
        for i in 0..full.weights.len() {
            let values =
                |d: &CpuDevice| d.bytes(i).as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>();
            for (x, y) in values(&d).iter().zip(values(&exact)) {
                worst = worst.max((x - y).abs() / y.abs().max(1e-3));
            }
        }
        // Half of the last place of 8 and 11 bits.
        let most = if name == "bf16" { 1.0 / 256.0 } else { 1.0 / 2048.0 };
        assert!(worst > 0.0 && worst <= most, "{name}: {worst}");
    }
}
