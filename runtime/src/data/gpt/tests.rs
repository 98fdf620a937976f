use super::index::{IndexOptions, Layout};
use super::*;
use std::path::{Path, PathBuf};

const PLAIN: Masks = Masks {
    eod: 1,
    pad: -1,
    eod_mask_loss: false,
    reset_position_ids: false,
    reset_attention_mask: false,
    eod_pad_length: 0,
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/megatron").join(name)
}

fn tiny(options: &IndexOptions) -> GptDataset {
    let indexed = Arc::new(IndexedDataset::open(&golden("tiny_text_document"), false).unwrap());
    let count = indexed.sequences() as i32;
    let index = GptIndex::build(0..count, |d| indexed.length(d as usize), options).unwrap();
    GptDataset::new(indexed, index, options.seq_length, options.extra_token, PLAIN)
}

fn options(num_samples: u64) -> IndexOptions {
    IndexOptions { seq_length: 16, extra_token: true, num_samples: Some(num_samples), seed: 1234, drop_last: true }
}

fn sample(d: &dyn Dataset, i: u64) -> (Vec<i32>, Vec<i32>, Vec<f32>) {
    let s = d.seq_length();
    let (mut tokens, mut labels, mut loss_mask) = (vec![0; s], vec![0; s], vec![0.0; s]);
    let mut out = SampleMut {
        tokens: &mut tokens,
        labels: &mut labels,
        loss_mask: &mut loss_mask,
        position_ids: &mut [],
        actual_seq_len: &mut [],
    };
    d.sample(i, &mut out).unwrap();
    (tokens, labels, loss_mask)
}

#[test]
fn indices_and_samples_equal_the_reference() {
    let text = std::fs::read_to_string(golden("golden.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let get = |case: &serde_json::Value, key: &str| -> Vec<i64> { serde_json::from_value(case[key].clone()).unwrap() };
    for num_samples in [10, 30, 60, 70] {
        let case = &json[format!("tiny L=16 num_samples={num_samples} seed=1234")];
        let d = tiny(&options(num_samples));
        let index = d.index();
        assert_eq!(index.layout.epochs, case["num_epochs"].as_u64().unwrap());
        assert_eq!(index.layout.separate_final_epoch, case["separate_final_epoch"].as_bool().unwrap());
        let documents: Vec<i64> = index.document.as_slice().iter().map(|&v| v as i64).collect();
        assert_eq!(documents, get(case, "document_index"));
        let samples: Vec<[i64; 2]> = serde_json::from_value(case["sample_index"].clone()).unwrap();
        assert_eq!(index.sample.as_slice(), samples);
        let shuffle: Vec<i64> = (0..d.len()).map(|i| index.shuffle.get(i).unwrap() as i64).collect();
        assert_eq!(shuffle, get(case, "shuffle_index"));
        let tokens: Vec<Vec<i32>> = serde_json::from_value(case["first_5_samples_tokens"].clone()).unwrap();
        for (i, text) in tokens.iter().enumerate() {
            assert_eq!(sample(&d, i as u64), (text[..16].to_vec(), text[1..].to_vec(), vec![1.0; 16]));
        }
    }
}

#[test]
fn samples_without_the_extra_token_mask_their_last_label() {
    let d = tiny(&IndexOptions { extra_token: false, ..options(10) });
    let (tokens, labels, mask) = sample(&d, 0);
    assert_eq!(labels[..15], tokens[1..]);
    assert_eq!((labels[15], mask[14], mask[15]), (0, 1.0, 0.0));
    // Together the samples are all tokens, each once.
    assert_eq!(d.len(), 398 / 16);
}

#[test]
fn a_partial_last_sample_is_padded() {
    let d = tiny(&IndexOptions { drop_last: false, num_samples: None, ..options(0) });
    assert_eq!(d.len(), (398_u64 - 1).div_ceil(16));
    let last = (0..d.len()).find(|&i| d.index().shuffle.get(i) == Some(d.len() - 1)).unwrap();
    let (tokens, _, mask) = sample(&d, last);
    let real = (398 - 1) % 16;
    assert_eq!(mask.iter().filter(|&&m| m == 1.0).count(), real);
    assert!(tokens[real + 1..].iter().all(|&t| t == 0));
}

#[test]
fn tokens_are_located_in_the_file() {
    let d = tiny(&options(10));
    let (tokens, ..) = sample(&d, 3);
    let bytes = std::fs::read(golden("tiny_text_document.bin")).unwrap();
    for (k, &token) in tokens.iter().enumerate() {
        let at = d.locate(3, k);
        let at: usize = at.split("byte ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert_eq!(bytes[at..at + 4], token.to_le_bytes());
    }
}

#[test]
fn requests_without_data_or_beyond_all_bounds_are_refused() {
    let code = |tokens, num| Layout::new(tokens, &options(num)).unwrap_err().code.id;
    assert_eq!(code(0, 10), "D0010");
    assert_eq!(code(5, u64::MAX), "D0009");
    let few = Layout::new(5, &options(0)).unwrap();
    assert_eq!((few.epochs, few.samples), (1, 0));
}
