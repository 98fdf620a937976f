use super::*;
use proptest::prelude::*;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/megatron").join(name)
}

fn write(prefix: &Path, dtype: TokenType, documents: &[Vec<Vec<u32>>]) {
    let mut w = IndexedWriter::create(prefix, dtype).unwrap();
    for document in documents {
        for sequence in document {
            w.add_sequence(sequence).unwrap();
        }
        w.end_document().unwrap();
    }
    w.finish().unwrap();
}

fn sequence(d: &IndexedDataset, i: usize) -> Vec<i32> {
    let mut out = vec![0; d.length(i) as usize];
    d.read(i, 0, &mut out).unwrap();
    out
}

#[test]
fn golden_documents_are_read_in_both_types_and_modes() {
    let text = std::fs::read_to_string(golden("golden.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let expected: Vec<Vec<i32>> = serde_json::from_value(json["docs_tiny"].clone()).unwrap();
    for (name, dtype) in [("tiny_text_document", TokenType::Int32), ("tiny_u16_text_document", TokenType::Uint16)] {
        for mmap in [false, true] {
            let d = IndexedDataset::open(&golden(name), mmap).unwrap();
            assert_eq!((d.dtype(), d.sequences(), d.documents()), (dtype, 20, 20));
            assert_eq!((0..20).map(|i| sequence(&d, i)).collect::<Vec<_>>(), expected);
        }
    }
}

#[test]
fn writing_what_was_read_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["tiny_text_document", "tiny2_text_document", "tiny_u16_text_document"] {
        let d = IndexedDataset::open(&golden(name), false).unwrap();
        let prefix = dir.path().join(name);
        let mut w = IndexedWriter::create(&prefix, d.dtype()).unwrap();
        w.add_dataset(&d).unwrap();
        w.finish().unwrap();
        for extension in [".bin", ".idx"] {
            let (new, old) = (with_extension(&prefix, extension), with_extension(&golden(name), extension));
            assert!(std::fs::read(new).unwrap() == std::fs::read(old).unwrap(), "{name}{extension}");
        }
    }
}

#[test]
fn an_unfinished_dataset_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = IndexedWriter::create(&dir.path().join("d"), TokenType::Uint16).unwrap();
    assert_eq!(w.add_sequence(&[1, 70000]).unwrap_err().code.id, "D0016");
    drop(w);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn each_kind_of_damage_has_its_code() {
    let dir = tempfile::tempdir().unwrap();
    let prefix = dir.path().join("d");
    write(&prefix, TokenType::Int32, &[vec![vec![1, 2, 3]], vec![vec![4], vec![5, 6]]]);
    let idx = std::fs::read(with_extension(&prefix, ".idx")).unwrap();
    let code = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = idx.clone();
        change(&mut bytes);
        std::fs::write(with_extension(&prefix, ".idx"), bytes).unwrap();
        let e = IndexedDataset::open(&prefix, false).unwrap_err();
        assert!(e.message.contains("d.idx") && e.help.is_some());
        e.code.id
    };
    assert_eq!(code(&|b| b[0] = b'X'), "D0003");
    assert_eq!(code(&|b| b[9] = 2), "D0003");
    assert_eq!(code(&|b| b[17] = 9), "D0003");
    assert_eq!(code(&|b| b.truncate(20)), "D0004");
    assert_eq!(code(&Vec::clear), "D0004");
    assert_eq!(code(&|b| b.truncate(b.len() - 1)), "D0004");
    assert_eq!(code(&|b| b.push(0)), "D0004");
    assert_eq!(code(&|b| b[18..26].fill(0xff)), "D0004");
    assert_eq!(code(&|b| b[37] = 0x80), "D0005", "negative length");
    assert_eq!(code(&|b| b[34 + 12] = 1), "D0005", "first pointer");
    let documents = 34 + 12 * 3;
    assert_eq!(code(&|b| b[documents] = 1), "D0005", "first document");
    assert_eq!(code(&|b| b[documents + 16] = 2), "D0005", "last document");
    std::fs::write(with_extension(&prefix, ".idx"), &idx).unwrap();
    std::fs::write(with_extension(&prefix, ".bin"), [0; 23]).unwrap();
    assert_eq!(IndexedDataset::open(&prefix, true).unwrap_err().code.id, "D0006");
    std::fs::remove_file(with_extension(&prefix, ".bin")).unwrap();
    assert_eq!(IndexedDataset::open(&prefix, true).unwrap_err().code.id, "D0001");
}

#[test]
fn an_empty_dataset_can_be_written_and_read() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("d"), TokenType::Int32, &[]);
    let d = IndexedDataset::open(&dir.path().join("d"), true).unwrap();
    assert_eq!((d.sequences(), d.documents()), (0, 0));
}

/// Opens and, if that works, reads everything: must not panic whatever the bytes are.
fn read_all(prefix: &Path) -> Option<Vec<Vec<i32>>> {
    let d = IndexedDataset::open(prefix, false).ok()?;
    (0..d.documents()).for_each(|i| assert!(d.document_start(i) <= d.sequences()));
    (0..d.sequences())
        .map(|i| {
            let mut out = vec![0; d.length(i) as usize];
            d.read(i, 0, &mut out).ok().map(|()| out)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn any_documents_survive_a_round_trip(
        documents in prop::collection::vec(prop::collection::vec(prop::collection::vec(0_u32..128, 0..9), 0..4), 0..9),
        code in 1_u8..9,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let prefix = dir.path().join("d.e");
        write(&prefix, TokenType::from_code(code).unwrap(), &documents);
        let d = IndexedDataset::open(&prefix, true).unwrap();
        let read: Vec<Vec<Vec<u32>>> = (0..d.documents())
            .map(|k| {
                (d.document_start(k)..d.document_start(k + 1))
                    .map(|i| sequence(&d, i).into_iter().map(|t| t as u32).collect())
                    .collect()
            })
            .collect();
        prop_assert_eq!(read, documents);
    }

    #[test]
    fn damaged_files_never_panic(
        cut in 0_usize..443,
        flips in prop::collection::vec((0_usize..442, 1_u8..=255), 0..4),
        bin in 0_usize..1600,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let prefix = dir.path().join("d");
        let mut idx = std::fs::read(golden("tiny_text_document.idx")).unwrap();
        for (at, bits) in flips {
            idx[at] ^= bits;
        }
        idx.truncate(cut.max(1));
        // Half of the cases keep the full length, so that damage inside is reached.
        if cut % 2 == 0 {
            let full = std::fs::read(golden("tiny_text_document.idx")).unwrap();
            idx.extend_from_slice(&full[idx.len()..]);
        }
        std::fs::write(with_extension(&prefix, ".idx"), idx).unwrap();
        let tokens = std::fs::read(golden("tiny_text_document.bin")).unwrap();
        std::fs::write(with_extension(&prefix, ".bin"), &tokens[..bin.min(tokens.len())]).unwrap();
        let _ = read_all(&prefix);
    }
}
