use super::*;
use crate::data::spec::TokenBinSpec;
use std::path::PathBuf;

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/megatron").join(name);
    path.to_string_lossy().into_owned()
}

fn list(items: &[&str]) -> Vec<String> {
    items.iter().map(|s| if s.starts_with("tiny") { golden(s) } else { (*s).to_string() }).collect()
}

fn spec(items: &[&str], size: Option<u64>) -> MegatronSpec {
    MegatronSpec::new(list(items), 16, size)
}

fn tokens(d: &dyn Dataset, i: u64) -> Vec<i32> {
    let s = d.seq_length();
    let (mut tokens, mut labels, mut mask) = (vec![0; s], vec![0; s], vec![0.0; s]);
    d.sample(
        i,
        &mut SampleMut {
            tokens: &mut tokens,
            labels: &mut labels,
            loss_mask: &mut mask,
            position_ids: &mut [],
            actual_seq_len: &mut [],
        },
    )
    .unwrap();
    tokens
}

fn all(o: &Opened) -> Vec<Vec<i32>> {
    (0..o.dataset.len()).map(|i| tokens(&*o.dataset, i)).collect()
}

fn blend(m: &MegatronSpec) -> BlendedDataset {
    let source = source(m, Split::Train).unwrap();
    let sizes: Vec<_> = match (&source.blend.weights, source.size) {
        (Some(w), Some(size)) => blend::size_per_dataset(w, size).into_iter().map(Some).collect(),
        _ => vec![None; source.blend.prefixes.len()],
    };
    open_blend(m, &source, &sizes, &mut vec![]).unwrap()
}

#[test]
fn weighted_blend_equals_the_reference() {
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(golden("golden.json")).unwrap()).unwrap();
    let case = &json["blend 0.3 tiny + 0.7 tiny2, sizes=[40,0,0]"];
    let b = blend(&spec(&["0.3", "tiny_text_document", "0.7", "tiny2_text_document"], Some(40)));
    assert_eq!(b.len(), case["blend_size"].as_u64().unwrap());
    let dataset: Vec<i16> = serde_json::from_value(case["dataset_index"].clone()).unwrap();
    let sample: Vec<i64> = serde_json::from_value(case["dataset_sample_index"].clone()).unwrap();
    assert_eq!((b.dataset.as_slice(), b.sample.as_slice()), (&dataset[..], &sample[..]));
    let sizes: Vec<u64> = serde_json::from_value(case["size_per_dataset"].clone()).unwrap();
    assert_eq!(blend::size_per_dataset(&[0.3, 0.7], 40), sizes);
}

#[test]
fn one_weighted_path_is_blended_with_a_margin() {
    let weighted = open(&DataSpec::Megatron(spec(&["1", "tiny_text_document"], Some(20))), Split::Train).unwrap();
    assert_eq!((weighted.dataset.len(), weighted.requested), (21, Some(20)));
    let plain = open(&DataSpec::Megatron(spec(&["tiny_text_document"], Some(20))), Split::Train).unwrap();
    assert_eq!(plain.dataset.len(), 24);
    assert_eq!(tokens(&*weighted.dataset, 5), tokens(&*plain.dataset, 5));
}

#[test]
fn paths_without_weights_are_used_up_once() {
    let m = spec(&["tiny_text_document", "tiny2_text_document"], None);
    let b = blend(&m);
    assert_eq!(b.len(), b.datasets.iter().map(Dataset::len).sum::<u64>());
    assert_eq!(blend(&MegatronSpec { sizes: [Some(7), None, None], ..m }).len(), 7);
}

#[test]
fn splits_share_no_sequence_and_miss_none() {
    let m = MegatronSpec { split: Some("60,20,20".into()), sizes: [None; 3], ..spec(&["tiny_text_document"], None) };
    let lens: Vec<u64> = Split::ALL.map(|s| open(&DataSpec::Megatron(m.clone()), s).unwrap().dataset.len()).to_vec();
    assert!(lens.iter().all(|&n| n > 0) && lens.iter().sum::<u64>() <= 24);
    let valid = open(&DataSpec::Megatron(spec(&["tiny_text_document"], None)), Split::Valid);
    assert_eq!(valid.unwrap_err().code.id, "D0009");
}

#[test]
fn each_split_may_have_its_own_paths() {
    let m = MegatronSpec {
        data_path: None,
        split: None,
        train_data_path: Some(list(&["tiny_text_document"])),
        valid_data_path: Some(list(&["1", "tiny2_text_document"])),
        sizes: [Some(10), Some(5), Some(0)],
        ..spec(&[], None)
    };
    let open = |s| open(&DataSpec::Megatron(m.clone()), s);
    assert_eq!(open(Split::Train).unwrap().dataset.len(), 24);
    assert!(open(Split::Valid).unwrap().dataset.len() >= 5);
    assert!(open(Split::Test).is_err());
}

#[test]
fn contradicting_keys_are_refused() {
    let base = spec(&["tiny_text_document"], Some(4));
    let train = Some(list(&["tiny_text_document"]));
    for bad in [
        MegatronSpec { split: None, ..base.clone() },
        MegatronSpec { data_path: None, ..base.clone() },
        MegatronSpec { train_data_path: train, ..base.clone() },
        MegatronSpec { seq_length: 0, ..base.clone() },
        MegatronSpec { seq_length: usize::MAX, ..base.clone() },
        spec(&["1", "tiny_text_document"], None),
    ] {
        assert_eq!(open(&DataSpec::Megatron(bad), Split::Train).unwrap_err().code.id, "D0009");
    }
    assert_eq!(open(&DataSpec::Megatron(spec(&["nowhere"], None)), Split::Train).unwrap_err().code.id, "D0001");
    let bin = TokenBinSpec { path: "x".into(), dtype: crate::data::dtype::TokenType::Int32, stride: 1, seq_length: 1 };
    assert_eq!(open(&DataSpec::TokenBin(bin), Split::Valid).unwrap_err().code.id, "D0009");
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn a_cached_index_gives_the_same_samples() {
    let dir = tempfile::tempdir().unwrap();
    let plain = spec(&["0.3", "tiny_text_document", "0.7", "tiny2_text_document"], Some(40));
    let cached = DataSpec::Megatron(MegatronSpec { path_to_cache: Some(dir.path().join("c")), ..plain.clone() });
    let expected = all(&open(&DataSpec::Megatron(plain), Split::Train).unwrap());
    for _ in 0..2 {
        let opened = open(&cached, Split::Train).unwrap();
        assert_eq!(opened.notes, []);
        assert_eq!(all(&opened), expected);
    }
    assert_eq!(files(&dir.path().join("c")).len(), 4 + 4 + 3);
}

#[test]
fn a_damaged_cache_is_noticed_and_built_anew() {
    let dir = tempfile::tempdir().unwrap();
    let m = MegatronSpec { path_to_cache: Some(dir.path().into()), ..spec(&["tiny_text_document"], Some(10)) };
    let m = DataSpec::Megatron(m);
    let expected = all(&open(&m, Split::Train).unwrap());
    for file in files(dir.path()).iter().filter(|f| f.extension().is_some_and(|e| e == "npy")) {
        let whole = std::fs::read(file).unwrap();
        std::fs::write(file, &whole[..whole.len() - 8]).unwrap();
        let opened = open(&m, Split::Train).unwrap();
        assert_eq!(opened.notes.iter().map(|n| n.code.id).collect::<Vec<_>>(), ["D0012"]);
        assert_eq!(all(&opened), expected);
        assert_eq!(std::fs::read(file).unwrap(), whole);
        assert_eq!(open(&m, Split::Train).unwrap().notes, []);
    }
}

#[test]
fn a_cache_with_wrong_entries_is_an_error_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let m = MegatronSpec { path_to_cache: Some(dir.path().into()), ..spec(&["tiny_text_document"], Some(10)) };
    let m = DataSpec::Megatron(m);
    open(&m, Split::Train).unwrap();
    for file in files(dir.path()).iter().filter(|f| f.extension().is_some_and(|e| e == "npy")) {
        let whole = std::fs::read(file).unwrap();
        let mut wrong = whole.clone();
        wrong[128..].fill(0xf3);
        std::fs::write(file, wrong).unwrap();
        let d = open(&m, Split::Train).unwrap().dataset;
        let (mut t, mut l, mut k) = ([0; 16], [0; 16], [0.0; 16]);
        let mut out = SampleMut {
            tokens: &mut t,
            labels: &mut l,
            loss_mask: &mut k,
            position_ids: &mut [],
            actual_seq_len: &mut [],
        };
        assert_eq!(d.sample(0, &mut out).unwrap_err().code.id, "D0012");
        assert!(!d.locate(0, 0).is_empty());
        std::fs::write(file, whole).unwrap();
    }
}

#[test]
fn the_index_can_be_built_ahead_of_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let m = MegatronSpec {
        split: Some("60,40".into()),
        sizes: [Some(8), Some(4), Some(0)],
        path_to_cache: Some(dir.path().into()),
        ..spec(&["tiny_text_document"], None)
    };
    let built = index(&m).unwrap();
    assert_eq!(built.iter().map(|(s, _)| *s).collect::<Vec<_>>(), [Split::Train, Split::Valid]);
    assert_eq!(files(dir.path()).len(), 8);
    assert_eq!(open(&DataSpec::Megatron(m.clone()), Split::Valid).unwrap().dataset.len(), built[1].1);
    assert_eq!(index(&MegatronSpec { path_to_cache: None, ..m }).unwrap_err().code.id, "D0009");
}

#[test]
fn batches_carry_positions_and_document_ends_when_asked() {
    use crate::data::loader::{BatchLoader, LoaderOptions};
    let m = MegatronSpec {
        reset_position_ids: true,
        create_compressed_eod_mask: true,
        eod_mask_loss: true,
        eod_pad_length: 8,
        eod: 1,
        ..spec(&["tiny_text_document"], Some(20))
    };
    let opened = open(&DataSpec::Megatron(m.clone()), Split::Train).unwrap();
    assert!(opened.dataset.resets_attention());
    let options = LoaderOptions { micro_batch_size: 4, vocab_size: 1000, ..LoaderOptions::default() };
    let batch = BatchLoader::new(opened.dataset, options.clone()).unwrap().next().unwrap();
    assert_eq!((batch.position_ids.len(), batch.actual_seq_len.len()), (4 * 16, 4 * 8));
    for row in 0..4 {
        let (tokens, positions) = (&batch.tokens[row * 16..][..16], &batch.position_ids[row * 16..][..16]);
        let ends = &batch.actual_seq_len[row * 8..][..8];
        for i in 0..16 {
            let starts = i == 0 || tokens[i - 1] == 1;
            assert_eq!(positions[i] == 0, starts);
            assert_eq!(batch.loss_mask[row * 16 + i] == 0.0, tokens[i] == 1);
            assert!(!starts || i == 0 || ends.contains(&(i as i32)));
        }
        assert_eq!(ends[7], 16);
    }
    let plain = open(&DataSpec::Megatron(spec(&["tiny_text_document"], Some(20))), Split::Train).unwrap().dataset;
    assert!(!plain.resets_attention());
    let batch = BatchLoader::new(plain, options).unwrap().next().unwrap();
    assert!(batch.position_ids.is_empty() && batch.actual_seq_len.is_empty());
    let none = MegatronSpec { eod_pad_length: 0, ..m };
    assert_eq!(open(&DataSpec::Megatron(none), Split::Train).unwrap_err().code.id, "D0009");
}
