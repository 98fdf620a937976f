use super::*;
use crate::data::dtype::TokenType;
use crate::data::spec::TokenBinSpec;
use crate::data::token_bin::TokenBin;
use std::collections::BTreeSet;
use tempfile::TempDir;

/// A file of `tokens` read as samples of four tokens without overlap.
fn dataset(tokens: &[i32]) -> (TempDir, Arc<dyn Dataset>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.bin");
    std::fs::write(&path, tokens.iter().flat_map(|t| t.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    let spec = TokenBinSpec { path, dtype: TokenType::Int32, stride: 5, seq_length: 4 };
    (dir, Arc::new(TokenBin::open(&spec).unwrap()))
}

fn counting(samples: i32) -> (TempDir, Arc<dyn Dataset>) {
    dataset(&(0..samples * 5).collect::<Vec<_>>())
}

/// Numbers of the samples in a batch of [`counting`].
fn samples(batch: &Batch) -> Vec<i32> {
    batch.tokens.iter().step_by(4).map(|t| t / 5).collect()
}

fn options(dp_rank: usize, dp_size: usize, micro_batch_size: usize, micro_batch_num: usize) -> LoaderOptions {
    LoaderOptions { dp_rank, dp_size, micro_batch_size, micro_batch_num, vocab_size: 1000, ..Default::default() }
}

#[test]
fn a_batch_has_inputs_labels_and_a_mask() {
    let (_dir, d) = counting(2);
    let batch = BatchLoader::new(d, options(0, 1, 2, 1)).unwrap().next().unwrap();
    assert_eq!(batch.tokens, [0, 1, 2, 3, 5, 6, 7, 8]);
    assert_eq!(batch.labels, [1, 2, 3, 4, 6, 7, 8, 9]);
    assert_eq!(batch.loss_mask, [1.0; 8]);
    assert_eq!((batch.step, batch.epoch, batch.consumed_samples), (0, 0, 2));
}

#[test]
fn a_shard_takes_every_nth_sample() {
    // MindSpore: 11 samples, 3 shards, shard 1 reads 1, 4, 7, 10.
    let (_dir, d) = counting(11);
    let o = LoaderOptions { drop_remainder: false, ..options(1, 3, 1, 1) };
    let mut loader = BatchLoader::new(d, o).unwrap();
    let read: Vec<_> = (0..5).flat_map(|_| samples(&loader.next().unwrap())).collect();
    assert_eq!(read, [1, 4, 7, 10, 1]);
}

#[test]
fn trailing_shards_wrap_around_without_drop_remainder() {
    let (_dir, d) = counting(11);
    let o = LoaderOptions { drop_remainder: false, ..options(2, 3, 1, 1) };
    let loader = BatchLoader::new(d, o).unwrap();
    assert_eq!((loader.schedule().steps_per_epoch(), samples(&loader.batch_at(3, 0).unwrap())), (4, vec![0]));
}

#[test]
fn a_step_reads_the_same_samples_on_every_mesh() {
    let (_dir, d) = counting(24);
    for step in 0..5 {
        let sets: BTreeSet<Vec<i32>> = [(1, 8, 1), (1, 2, 4), (2, 4, 1), (4, 1, 2), (8, 1, 1)]
            .into_iter()
            .map(|(dp, b, m)| {
                let mut all: Vec<i32> = (0..dp)
                    .flat_map(|r| {
                        let loader = BatchLoader::new(Arc::clone(&d), options(r, dp, b, m)).unwrap();
                        (0..m).flat_map(|k| samples(&loader.batch_at(step, k).unwrap())).collect::<Vec<_>>()
                    })
                    .collect();
                all.sort_unstable();
                all
            })
            .collect();
        assert_eq!(sets.len(), 1, "{sets:?}");
    }
}

#[test]
fn the_next_epoch_begins_where_the_first_did() {
    let (_dir, d) = counting(5);
    let mut loader = BatchLoader::new(d, options(0, 1, 2, 1)).unwrap();
    let read: Vec<_> = (0..5).map(|_| loader.next().unwrap()).collect();
    assert_eq!(read.iter().map(samples).collect::<Vec<_>>(), [[0, 1], [2, 3], [0, 1], [2, 3], [0, 1]]);
    assert_eq!(read.iter().map(|b| b.epoch).collect::<Vec<_>>(), [0, 0, 1, 1, 2]);
    assert_eq!(read[4].consumed_samples, 10);
}

#[test]
fn resuming_continues_the_same_stream() {
    let (_dir, d) = counting(13);
    let mut straight = BatchLoader::new(Arc::clone(&d), options(1, 2, 1, 3)).unwrap();
    let all: Vec<_> = (0..21).map(|_| straight.next().unwrap()).collect();
    for k in 0..7 {
        let o = LoaderOptions { start_step: k, ..options(1, 2, 1, 3) };
        let mut resumed = BatchLoader::new(Arc::clone(&d), o).unwrap();
        assert!((all.iter().skip(k as usize * 3)).all(|b| resumed.next().unwrap() == *b));
    }
}

#[test]
fn the_epoch_ends_at_the_requested_number_of_samples() {
    let (_dir, d) = counting(13);
    let loader = BatchLoader::new(d, LoaderOptions { take: Some(9), ..options(0, 2, 2, 1) }).unwrap();
    assert_eq!(loader.schedule().steps_per_epoch(), 2);
}

#[test]
fn ignored_labels_and_padding_do_not_count() {
    let (_dir, d) = dataset(&[1, 2, 3, 7, -100]);
    let o = LoaderOptions { pad_token_id: Some(2), ..options(0, 1, 1, 1) };
    let batch = BatchLoader::new(d, o).unwrap().next().unwrap();
    assert_eq!((batch.labels, batch.loss_mask), (vec![2, 3, 7, 0], vec![1.0, 0.0, 1.0, 0.0]));
}

#[test]
fn token_ids_outside_the_vocabulary_name_file_sample_and_token() {
    for (tokens, at) in [([1, 2, 3, 4, 5, 6, 1000, 8, 9, 10], 6), ([0, 0, 0, 0, 0, 1, 1, 1, 1, 1000], 9)] {
        let (_dir, d) = dataset(&tokens);
        let mut loader = BatchLoader::new(d, options(0, 1, 1, 1)).unwrap();
        loader.next().unwrap();
        let e = loader.next().unwrap_err();
        assert_eq!(e.code.id, "D0007");
        let place = format!("sample 1, token {}", at - 5);
        assert!(e.message.contains("1000") && e.message.contains(&place), "{}", e.message);
        assert!(e.message.contains("t.bin") && e.message.contains(&format!("byte {}", at * 4)), "{}", e.message);
        assert!(loader.next().is_err());
    }
    let (_dir, d) = dataset(&[0, -1, 2, 3, 4]);
    assert!(BatchLoader::new(d, options(0, 1, 1, 1)).unwrap().next().is_err());
}

#[test]
fn too_little_data_and_odd_sizes_are_refused() {
    let (_dir, d) = counting(3);
    let code = |o| BatchLoader::new(Arc::clone(&d), o).unwrap_err().code.id;
    assert_eq!(code(options(0, 2, 2, 1)), "D0010");
    assert_eq!(code(options(2, 2, 1, 1)), "D0009");
    assert_eq!(code(options(0, 1, 0, 1)), "D0009");
    assert_eq!(code(options(0, usize::MAX, 2, 2)), "D0009");
}

#[test]
fn a_loader_can_be_dropped_while_it_reads_ahead() {
    let (_dir, d) = counting(3);
    for _ in 0..20 {
        drop(BatchLoader::new(Arc::clone(&d), options(0, 1, 1, 1)).unwrap());
    }
}
