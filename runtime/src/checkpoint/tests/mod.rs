//! Round trips through the disk, and every kind of damage.

mod scaled;
mod tables;

use super::file::TensorFile;
use super::*;
use crate::loss_scale::Scaling;
use crate::team::Gathered;
use crate::toy::{self, Toy};
use athanor_backends::cpu::device::{CpuDevice, DeviceOptions};
use safetensors::tensor::{Dtype, TensorView, serialize};
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

fn device() -> CpuDevice {
    let mut d = CpuDevice::new(Arc::new(toy::plan(&Toy::default())), 0, &DeviceOptions::default()).unwrap();
    for i in 0..d.stage().buffers.len() {
        let values: Vec<f32> = (0..d.bytes(i).len() / 4).map(|k| (k as f32 - 7.0) * 0.37 + i as f32).collect();
        d.bytes_mut(i).copy_from_slice(bytemuck::cast_slice(&values));
    }
    d
}

fn state(step: u64) -> State {
    State {
        epoch_num: 1,
        step_num: step,
        global_step: step,
        scaling: Scaling { loss_scale: 1.0, good_steps: 0, skipped_steps: 0 },
        global_batch_size: 2,
        consumed_samples: 2 * step,
        ckpt_status: 0,
    }
}

fn saver(dir: &Path) -> Saver {
    let mut run = toy::run(&Toy::default());
    run.output_dir = dir.to_string_lossy().into_owned();
    Saver::new(&run)
}

fn kept(d: &CpuDevice, prefix: &str) -> Vec<Vec<u8>> {
    toy::WEIGHTS.iter().map(|(n, _)| d.bytes(d.buffer(&format!("{prefix}{n}")).unwrap()).to_vec()).collect()
}

fn blank() -> CpuDevice {
    CpuDevice::new(Arc::new(toy::plan(&Toy::default())), 0, &DeviceOptions::default()).unwrap()
}

#[test]
fn state_survives_bit_for_bit() {
    let temp = tempfile::tempdir().unwrap();
    let mut saver = saver(temp.path());
    let from = device();
    let dir = saver.save(&from, &Gathered::default(), &state(4)).unwrap();
    assert!(dir.ends_with("checkpoint/iteration_00000004"));
    let root = temp.path().join("checkpoint");
    assert_eq!(fs::read_to_string(root.join(TRACKER)).unwrap(), "4");
    let mut to = blank();
    let found = resume::restore(&mut to, 0, &resume::directory(&root).unwrap(), 2).unwrap();
    assert_eq!(found, state(4));
    for prefix in ["", "adam_m.", "adam_v."] {
        assert_eq!(kept(&from, prefix), kept(&to, prefix));
    }
    // Weights alone, by every path that leads to them.
    for path in [root.clone(), dir.clone(), dir.join("model.safetensors")] {
        let mut to = blank();
        load_weights(&mut to, 0, &path).unwrap();
        assert_eq!(kept(&from, ""), kept(&to, ""));
        assert_ne!(kept(&from, "adam_m."), kept(&to, "adam_m."));
    }
}

#[test]
fn what_is_saved_is_what_hugging_face_reads() {
    let temp = tempfile::tempdir().unwrap();
    let dir = saver(temp.path()).save(&device(), &Gathered::default(), &state(1)).unwrap();
    let bytes = fs::read(dir.join("model.safetensors")).unwrap();
    let parsed = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut names = parsed.names();
    names.sort_unstable();
    assert_eq!(names, ["embed.weight", "head.weight", "up.weight"]);
    assert_eq!(parsed.tensor("up.weight").unwrap().shape(), [toy::F, toy::H]);
    let (_, meta) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(meta.metadata().as_ref().unwrap()["format"], "pt");
    let config: serde_json::Value = serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["model_type"], "toy");
}

#[test]
fn the_oldest_of_this_run_go_and_nothing_partial_stays() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("checkpoint");
    fs::create_dir_all(root.join("iteration_00000001")).unwrap();
    let mut saver = saver(temp.path());
    for step in [2, 3, 4, 4] {
        saver.save(&device(), &Gathered::default(), &state(step)).unwrap();
    }
    let mut names: Vec<String> =
        fs::read_dir(&root).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    // Two are kept; the one of another run is not ours to remove.
    assert_eq!(names, ["iteration_00000001", "iteration_00000003", "iteration_00000004", TRACKER]);
}

#[test]
fn a_failed_save_leaves_the_last_one() {
    let temp = tempfile::tempdir().unwrap();
    let mut s = saver(temp.path());
    s.save(&device(), &Gathered::default(), &state(1)).unwrap();
    // A file where the directory should go cannot be replaced by one.
    fs::remove_dir_all(temp.path().join("checkpoint")).unwrap();
    fs::write(temp.path().join("checkpoint"), "a file").unwrap();
    assert_eq!(s.save(&device(), &Gathered::default(), &state(2)).unwrap_err().code.id, "K0004");
    assert_eq!(fs::read_to_string(temp.path().join("checkpoint")).unwrap(), "a file");
}

/// A file with the toy's weights, changed by `change`.
fn file(path: &Path, dtype: Dtype, change: impl FnOnce(&mut HashMap<String, (Dtype, Vec<usize>, Vec<u8>)>)) {
    let mut tensors: HashMap<String, (Dtype, Vec<usize>, Vec<u8>)> = toy::WEIGHTS
        .iter()
        .map(|(n, d)| {
            let bytes = d.iter().product::<usize>() * dtype.bitsize() / 8;
            ((*n).to_owned(), (dtype, d.to_vec(), (0..bytes).map(|i| if i % 2 == 1 { 0x3f } else { 0 }).collect()))
        })
        .collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(n, (t, s, b))| (n.as_str(), TensorView::new(*t, s.clone(), b).unwrap()));
    fs::write(path, serialize(views, None).unwrap()).unwrap();
}

#[test]
fn dtypes_are_converted() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("w.safetensors");
    // The pattern 00 3f repeated: 0.5 in bf16, 1.75 in f16, and so on.
    let cases = [
        (Dtype::BF16, 0.5),
        (Dtype::F16, 1.75),
        (Dtype::F32, f32::from_bits(0x3f00_3f00)),
        (Dtype::F64, f64::from_bits(0x3f00_3f00_3f00_3f00) as f32),
    ];
    for (dtype, want) in cases {
        file(&path, dtype, |_| {});
        let mut d = blank();
        load_weights(&mut d, 0, &path).unwrap();
        for w in kept(&d, "") {
            assert!(w.chunks_exact(4).all(|b| f32::from_ne_bytes(b.try_into().unwrap()) == want), "{dtype:?}");
        }
    }
}

#[test]
fn every_difference_is_listed() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("w.safetensors");
    file(&path, Dtype::F32, |t| {
        t.remove("up.weight");
        t.insert("extra.bias".into(), (Dtype::F32, vec![1], vec![0; 4]));
        t.insert("head.weight".into(), (Dtype::F32, vec![2, 2], vec![0; 16]));
        t.insert("embed.weight".into(), (Dtype::I32, vec![toy::V, toy::H], vec![0; 4 * toy::V * toy::H]));
    });
    let e = load_weights(&mut blank(), 0, &path).unwrap_err();
    assert_eq!(e.code.id, "K0003");
    for says in [
        "4 differences",
        "missing: `up.weight` [8, 6]",
        "unexpected: `extra.bias`",
        "[2, 2]; the model has [11, 8]",
        "I32",
    ] {
        assert!(e.message.contains(says), "{e} should say {says}");
    }
}

#[test]
fn a_hugging_face_directory_in_parts() {
    let temp = tempfile::tempdir().unwrap();
    let at = |n: &str| temp.path().join(n);
    file(&at("a.safetensors"), Dtype::F32, |t| t.retain(|n, _| n == "up.weight"));
    file(&at("b.safetensors"), Dtype::F32, |t| t.retain(|n, _| n != "up.weight"));
    let index =
        |map: &str| fs::write(at("model.safetensors.index.json"), format!("{{\"weight_map\": {map}}}")).unwrap();
    index(r#"{"up.weight": "a.safetensors", "head.weight": "b.safetensors", "embed.weight": "b.safetensors"}"#);
    load_weights(&mut blank(), 0, temp.path()).unwrap();
    for bad in [
        r#"{"up.weight": "../a.safetensors"}"#,
        r#"{"up.weight": "gone.safetensors"}"#,
        // A name that is elsewhere, one that is nowhere, and one that the index forgot.
        r#"{"up.weight": "b.safetensors", "head.weight": "b.safetensors", "embed.weight": "b.safetensors"}"#,
        r#"{"up.weight": "a.safetensors", "head.weight": "b.safetensors", "embed.weight": "b.safetensors", "no": "b.safetensors"}"#,
        r#"{"up.weight": "a.safetensors", "head.weight": "b.safetensors"}"#,
        "3",
    ] {
        index(bad);
        assert_eq!(load_weights(&mut blank(), 0, temp.path()).unwrap_err().code.id, "K0001");
    }
    assert_eq!(load_weights(&mut blank(), 0, &at("nothing")).unwrap_err().code.id, "K0001");
}

#[test]
fn damaged_files_name_the_byte() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("w.safetensors");
    file(&path, Dtype::F32, |_| {});
    let good = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let expect = |bytes: &[u8], says: &str| {
        fs::write(&path, bytes).unwrap();
        let e = TensorFile::open(&path).unwrap_err();
        assert!(e.code.id == "K0002" && e.message.contains(says), "{e} should say {says}");
    };
    expect(&good[..5], "byte 5");
    expect(&good[..header], "byte 0");
    expect(&good[..good.len() - 1], &format!("byte {}", good.len() - 1));
    expect(&[&good[..], b"x"].concat(), &format!("byte {}", good.len()));
    let mut huge = good.clone();
    huge[..8].fill(0xff);
    expect(&huge, "byte 0");
    // The same name twice.
    let twice = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let length = (twice.len() as u64).to_le_bytes();
    expect(&[&length[..], twice.as_bytes(), &[0; 4]].concat(), "`a` is there twice");
    let mut broken = good.clone();
    let colon = good.iter().position(|b| *b == b':').unwrap();
    broken[colon] = b'}';
    expect(&broken, &format!("byte {colon}: the header is damaged"));
    let text = String::from_utf8(good[8..8 + header].to_vec()).unwrap().replace("[8,6]", "[6,6]");
    expect(&[&good[..8], text.as_bytes(), &good[8 + header..]].concat(), "cannot lie at");
}

#[test]
fn contradictions_in_a_header_are_refused_without_memory_for_them() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("w.safetensors");
    for (text, data) in [
        (r#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,20]}}"#, 20),
        (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, 8),
        (r#"{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,8]}}"#, 8),
        (r#"{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,18446744073709551615]}}"#, 8),
        (
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
            4,
        ),
        (r#"{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}"#, 4),
        (r#"{"__metadata__":{"x":1}}"#, 0),
        ("[]", 0),
    ] {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        fs::write(&path, bytes).unwrap();
        assert_eq!(TensorFile::open(&path).unwrap_err().code.id, "K0002", "{text}");
    }
}

#[test]
fn no_bytes_make_it_panic() {
    use proptest::prelude::*;
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("w.safetensors");
    file(&path, Dtype::BF16, |_| {});
    let good = fs::read(&path).unwrap();
    let cut = (0..good.len(), prop::collection::vec((0..400_usize, any::<u8>()), 1..4));
    proptest!(ProptestConfig::with_cases(200), |((end, edits) in cut, whole in any::<bool>())| {
        let mut bytes = if whole { good.clone() } else { good[..end].to_vec() };
        for (at, b) in edits {
            if let Some(place) = bytes.get_mut(at) { *place = b; }
        }
        fs::write(&path, &bytes).unwrap();
        let _ = load_weights(&mut blank(), 0, &path);
        if let Ok(c) = convert::Checkpoint::open(&path, &convert::Opening::default()) {
            let _ = c.not_finite(&|_| ());
        }
    });
}

#[test]
fn damaged_state_is_coded() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("checkpoint");
    fs::create_dir_all(&root).unwrap();
    assert_eq!(resume::directory(&root).unwrap_err().code.id, "K0005");
    let dir = saver(temp.path()).save(&device(), &Gathered::default(), &state(3)).unwrap();
    fs::write(root.join(TRACKER), "three").unwrap();
    assert_eq!(resume::directory(&root).unwrap_err().code.id, "K0006");
    fs::write(root.join(TRACKER), "9").unwrap();
    assert_eq!(resume::directory(&root).unwrap_err().code.id, "K0005");
    // Another batch size counts steps anew, if they come out even.
    assert_eq!(resume::restore(&mut blank(), 0, &dir, 3).unwrap().global_step, 2);
    assert_eq!(resume::restore(&mut blank(), 0, &dir, 4).unwrap_err().code.id, "K0006");
    fs::write(dir.join(COMMON), "{}").unwrap();
    assert_eq!(resume::restore(&mut blank(), 0, &dir, 2).unwrap_err().code.id, "K0006");
    fs::remove_file(dir.join("toy-opt-0000000-0000001.safetensors")).unwrap();
    fs::write(dir.join(COMMON), serde_json::to_vec(&state(3)).unwrap()).unwrap();
    assert_eq!(resume::restore(&mut blank(), 0, &dir, 2).unwrap_err().code.id, "K0005");
}

#[test]
fn two_runs_do_not_save_into_one_directory() {
    let temp = tempfile::tempdir().unwrap();
    let (mut first, mut second) = (saver(temp.path()), saver(temp.path()));
    first.claim().unwrap();
    first.save(&device(), &Gathered::default(), &state(1)).unwrap();
    assert_eq!(second.claim().unwrap_err().code.id, "K0010");
    assert_eq!(second.save(&device(), &Gathered::default(), &state(2)).unwrap_err().code.id, "K0010");
    assert_eq!(resume::directory(&temp.path().join("checkpoint")).unwrap().file_name().unwrap(), "iteration_00000001");
    drop(first);
    second.save(&device(), &Gathered::default(), &state(2)).unwrap();
}
