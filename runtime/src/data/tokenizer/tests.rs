use super::*;
use std::path::Path;

const TEXT: &str =
    "The quick brown fox jumps over the lazy dog.\n\nThe dog sleeps; the fox — it doesn't.\nnaïve 东京 1234\n";

fn options(dir: &Path, text: &str) -> TrainOptions {
    let input = dir.join("in.txt");
    std::fs::write(&input, text).unwrap();
    TrainOptions {
        input: InputOptions::new(vec![input.to_string_lossy().into_owned()]),
        vocab_size: 300,
        output: dir.join("out/tokenizer.json"),
        ..TrainOptions::default()
    }
}

#[test]
fn a_trained_tokenizer_reproduces_any_text() {
    let dir = tempfile::tempdir().unwrap();
    let report = train(&options(dir.path(), &TEXT.repeat(5)), &mut |_| ()).unwrap();
    assert_eq!((report.vocab_size, report.eos_id), (300, Some(0)));
    let tokenizer = Tokenizer::from_file(dir.path().join("out/tokenizer.json")).unwrap();
    assert_eq!(tokenizer.get_vocab_size(true), 300);
    for text in [TEXT, "something else: ä ß 漢字 \u{1f600} \0 end", "  a\n\n b "] {
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(ids.get_ids(), false).unwrap(), text);
    }
    let ids = tokenizer.encode("a<|endoftext|>", false).unwrap();
    assert_eq!(ids.get_ids().last(), Some(&0));
}

#[test]
fn the_same_text_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let text = TEXT.repeat(40);
    let mut texts = vec![];
    for workers in [1, 3, 1] {
        let o = TrainOptions { workers, overwrite: true, ..options(dir.path(), &text) };
        train(&o, &mut |_| ()).unwrap();
        texts.push(std::fs::read(&o.output).unwrap());
    }
    assert!(texts[0] == texts[1] && texts[0] == texts[2]);
}

#[test]
fn rare_words_are_forgotten_when_there_are_too_many() {
    let dir = tempfile::tempdir().unwrap();
    let text = (0..500).map(|i| format!("common rare{i} ")).collect::<Vec<_>>().concat();
    let o = TrainOptions { max_words: 50, ..options(dir.path(), &text) };
    let report = train(&o, &mut |_| ()).unwrap();
    assert!(report.words <= 50 && report.forgotten > 400, "{report:?}");
    let tokenizer = Tokenizer::from_file(&o.output).unwrap();
    assert!(tokenizer.token_to_id("Ġcommon").is_some());
}

#[test]
fn an_existing_tokenizer_is_kept_unless_told_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let o = options(dir.path(), TEXT);
    train(&o, &mut |_| ()).unwrap();
    assert_eq!(train(&o, &mut |_| ()).unwrap_err().code.id, "D0018");
    train(&TrainOptions { overwrite: true, ..o }, &mut |_| ()).unwrap();
}

#[test]
fn options_without_a_meaning_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let base = options(dir.path(), TEXT);
    let code = |o: TrainOptions| train(&o, &mut |_| ()).unwrap_err().code.id;
    assert_eq!(code(TrainOptions { vocab_size: 256, ..base.clone() }), "D0017");
    assert_eq!(code(TrainOptions { special_tokens: vec!["<s>".into(), "<s>".into()], ..base.clone() }), "D0017");
    assert_eq!(code(TrainOptions { input: InputOptions::new(vec![]), ..base.clone() }), "D0017");
    assert_eq!(code(options(dir.path(), " \n\n")), "D0014");
    assert_eq!(code(TrainOptions { input: InputOptions::new(vec!["/nowhere".into()]), ..base }), "D0001");
    assert!(!dir.path().join("out").exists() || std::fs::read_dir(dir.path().join("out")).unwrap().count() == 0);
}
