//! 8-bit weights with a scale per block of 128 × 128.

use super::super::convert::{Checkpoint, Opening, convert};
use super::super::elements::e4m3;
use super::super::tensors::Tensors;
use super::super::write::DEFAULT_SHARD;
use athanor_ir::DType;
use half::bf16;
use safetensors::tensor::{Dtype, TensorView, serialize};
use std::collections::HashMap;
use std::fs;
use std::path::Path;

const ROWS: usize = 130;
const COLS: usize = 257;

/// A file with an 8-bit weight of 2 × 3 blocks, the last ones partial; `change` may spoil it.
fn file(path: &Path, change: impl FnOnce(&mut HashMap<String, (Dtype, Vec<usize>, Vec<u8>)>)) {
    let scales: Vec<u8> = (0..6).flat_map(|i| (0.5 + i as f32).to_le_bytes()).collect();
    let codes = (0..ROWS * COLS).map(|i| (i * 7 % 120) as u8).collect();
    let mut tensors = HashMap::from([
        ("up.weight".to_owned(), (Dtype::F8_E4M3, vec![ROWS, COLS], codes)),
        ("up.weight_scale_inv".to_owned(), (Dtype::F32, vec![2, 3], scales)),
        ("norm.weight".to_owned(), (Dtype::BF16, vec![2], bf16::ONE.to_le_bytes().repeat(2))),
    ]);
    change(&mut tensors);
    let views = tensors.iter().map(|(n, (t, s, b))| (n.as_str(), TensorView::new(*t, s.clone(), b).unwrap()));
    fs::write(path, serialize(views, None).unwrap()).unwrap();
}

fn value(r: usize, c: usize) -> f32 {
    e4m3(((r * COLS + c) * 7 % 120) as u8) * (0.5 + (r / 128 * 3 + c / 128) as f32)
}

#[test]
fn blocks_get_their_scales() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("model.safetensors");
    file(&path, |_| {});
    let tensors = Tensors::of(&path).unwrap();
    let data = tensors.data("up.weight").unwrap();
    assert_eq!(data.dtype, DType::F32);
    for (i, b) in data.bytes.as_chunks::<4>().0.iter().enumerate() {
        assert_eq!(f32::from_le_bytes(*b), value(i / COLS, i % COLS), "element {i}");
    }
    assert!(tensors.is_scale("up.weight_scale_inv") && !tensors.is_scale("norm.weight"));
}

#[test]
fn converting_makes_bf16_of_them_and_takes_the_note_out_of_the_config() {
    let temp = tempfile::tempdir().unwrap();
    let (a, b) = (temp.path().join("a"), temp.path().join("b"));
    fs::create_dir(&a).unwrap();
    file(&a.join("model.safetensors"), |_| {});
    fs::write(a.join("config.json"), r#"{"model_type": "x", "quantization_config": {"fmt": "e4m3"}}"#).unwrap();
    fs::write(a.join("tokenizer.json"), "{}").unwrap();
    let from = Checkpoint::open(&a, &Opening::default()).unwrap();
    assert!(from.is_scaled());
    assert_eq!(convert(&from, &from.table, &b, DEFAULT_SHARD, &|_| ()).unwrap(), ["model.safetensors"]);
    let made = Tensors::of(&b).unwrap();
    assert_eq!(made.names().collect::<Vec<_>>(), ["norm.weight", "up.weight"]);
    let data = made.data("up.weight").unwrap();
    assert_eq!(data.dtype, DType::BF16);
    for (i, x) in data.bytes.as_chunks::<2>().0.iter().enumerate() {
        assert_eq!(bf16::from_le_bytes(*x), bf16::from_f32(value(i / COLS, i % COLS)), "element {i}");
    }
    assert_eq!(fs::read_to_string(b.join("config.json")).unwrap(), "{\n  \"model_type\": \"x\"\n}");
    assert!(b.join("tokenizer.json").is_file());
    // A second time there is something in the way.
    assert_eq!(convert(&from, &from.table, &b, DEFAULT_SHARD, &|_| ()).unwrap_err().code.id, "K0004");
}

#[test]
fn scales_that_do_not_fit_are_told() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("model.safetensors");
    let refused = |says: &str| {
        let e = Checkpoint::open(&path, &Opening::default()).unwrap_err();
        assert!(e.code.id == "K0003" && e.message.contains(says), "{e} should say {says}");
    };
    file(&path, |t| {
        t.get_mut("up.weight_scale_inv").unwrap().1 = vec![3, 2];
    });
    refused("not F32 [2, 3]");
    file(&path, |t| {
        t.remove("up.weight_scale_inv");
    });
    refused("F8_E4M3 is no float that weights can be read from");
    file(&path, |t| {
        let (dtype, dims, bytes) = t.get_mut("up.weight").unwrap();
        (*dtype, *dims) = (Dtype::F32, vec![2]);
        bytes.truncate(8);
    });
    // The scale is a weight of its own then, which only a model can know better.
    assert_eq!(Checkpoint::open(&path, &Opening::default()).unwrap().weights.len(), 3);
}
