//! Input files cut into documents, in bounded memory.

use super::options::{InputFormat, InputOptions, TextUnit};
use super::raw::{Place, Raw, decode};
use super::wikitext::WikitextCleaner;
use crate::data::codes;
use crate::data::source::open_file;
use athanor_ir::diag::{Diagnostic, Result};
use flate2::read::MultiGzDecoder;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Text of one batch for a worker; large enough that queues cost nothing.
const BATCH_BYTES: usize = 64 << 10;
const BATCH_DOCUMENTS: usize = 1024;
/// A file that is one document is handed over in parts of about this size.
const PART_BYTES: usize = 256 << 10;

/// Bytes read so far, shared with whoever shows progress.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counter(Arc<AtomicU64>);

impl Counter {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Counted(File, Counter);

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.read(buffer)?;
        self.1.0.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// All input files, one after the other.
pub(crate) struct Input {
    options: InputOptions,
    files: VecDeque<PathBuf>,
    total: u64,
    counter: Counter,
    current: Option<Documents>,
    /// A document that belongs to the next batch.
    ahead: Option<Raw>,
}

impl Input {
    /// Finds the files; all must exist.
    pub(crate) fn open(options: &InputOptions) -> Result<Self> {
        let mut files = VecDeque::new();
        for pattern in &options.paths {
            files.extend(expand(pattern)?);
        }
        if files.is_empty() {
            return Diagnostic::error(&codes::OPTIONS, "there is no input file").help("give --input").err();
        }
        let total = files.iter().map(|f| open_file(f).map(|(_, len)| len)).sum::<Result<u64>>()?;
        let options = options.clone();
        Ok(Self { options, files, total, counter: Counter::default(), current: None, ahead: None })
    }

    pub(crate) fn total_bytes(&self) -> u64 {
        self.total
    }

    pub(crate) fn counter(&self) -> Counter {
        self.counter.clone()
    }

    /// The next documents, at least one, together at most 64 KiB unless a single one is longer.
    pub(crate) fn next_batch(&mut self) -> Result<Option<Vec<Raw>>> {
        let (mut batch, mut bytes) = (vec![], 0);
        loop {
            let next = match self.ahead.take() {
                Some(raw) => Some(raw),
                None => self.next_document()?,
            };
            let Some(raw) = next else { break };
            if !batch.is_empty() && (bytes + raw.bytes.len() > BATCH_BYTES || batch.len() == BATCH_DOCUMENTS) {
                self.ahead = Some(raw);
                break;
            }
            bytes += raw.bytes.len();
            batch.push(raw);
        }
        Ok((!batch.is_empty()).then_some(batch))
    }

    fn next_document(&mut self) -> Result<Option<Raw>> {
        loop {
            if let Some(documents) = &mut self.current {
                if let Some(raw) = documents.next()? {
                    return Ok(Some(raw));
                }
                self.current = None;
            }
            let Some(path) = self.files.pop_front() else { return Ok(None) };
            self.current = Some(Documents::open(&path, &self.options, &self.counter)?);
        }
    }
}

fn expand(pattern: &str) -> Result<Vec<PathBuf>> {
    let path = Path::new(pattern);
    if path.exists() || !pattern.contains(['*', '?', '[']) {
        return Ok(vec![path.to_path_buf()]);
    }
    let matches = glob::glob(pattern).map(|paths| paths.filter_map(std::result::Result::ok).collect::<Vec<_>>());
    let mut matches = matches.unwrap_or_default();
    matches.retain(|p| p.is_file());
    if matches.is_empty() {
        return Diagnostic::error(&codes::FILE_OPEN, format!("no file matches {pattern}"))
            .help("check the pattern; quote it, so that the shell does not expand it")
            .err();
    }
    Ok(matches)
}

/// Lines of one file, with their places.
struct Lines {
    reader: BufReader<Box<dyn Read + Send>>,
    place: Place,
    max: usize,
}

impl Lines {
    /// Reads one line with its end into `line`; false at the end of the file.
    fn read(&mut self, line: &mut Vec<u8>) -> Result<bool> {
        self.place.offset += line.len() as u64;
        line.clear();
        let limit = self.max as u64 + 1;
        match (&mut self.reader).take(limit).read_until(b'\n', line) {
            Ok(0) => Ok(false),
            Ok(n) if n as u64 == limit => self.too_long(),
            Ok(_) => {
                self.place.line += 1;
                Ok(true)
            }
            Err(e) => Diagnostic::error(
                &codes::FILE_READ,
                format!("{}: cannot read behind byte {}: {e}", self.place.path, self.place.offset),
            )
            .help("check the file; a .gz file may be cut off")
            .err(),
        }
    }

    fn too_long<T>(&self) -> Result<T> {
        let what = format!("a document is longer than {} bytes", self.max);
        self.place.error(0, &what, "split the document, or raise max_document_bytes")
    }
}

/// Documents of one file.
struct Documents {
    lines: Lines,
    line: Vec<u8>,
    cut: Cut,
}

/// How lines become documents.
enum Cut {
    Json,
    Line,
    Paragraph,
    File {
        started: bool,
    },
    /// Cleaned text that waits for a paragraph end.
    Wikitext {
        cleaner: WikitextCleaner,
        ready: VecDeque<String>,
        text: String,
        ended: bool,
    },
}

impl Documents {
    fn open(path: &Path, options: &InputOptions, counter: &Counter) -> Result<Self> {
        let name = path.to_string_lossy();
        let file = Counted(open_file(path)?.0, counter.clone());
        let plain: Box<dyn Read + Send> =
            if name.ends_with(".gz") { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
        let cut = match (options.format_of(&name), options.text_unit) {
            (InputFormat::Jsonl, _) => Cut::Json,
            (InputFormat::Wikitext, _) => Cut::Wikitext {
                cleaner: WikitextCleaner::default(),
                ready: VecDeque::new(),
                text: String::new(),
                ended: false,
            },
            (_, TextUnit::Line) => Cut::Line,
            (_, TextUnit::Paragraph) => Cut::Paragraph,
            (_, TextUnit::File) => Cut::File { started: false },
        };
        let place = Place { path: name.into(), line: 0, offset: 0 };
        let mut reader = BufReader::with_capacity(1 << 20, plain);
        let mut skipped = 0;
        if reader.fill_buf().is_ok_and(|b| b.starts_with(b"\xef\xbb\xbf")) {
            reader.consume(3);
            skipped = 3;
        }
        let lines = Lines { reader, place: Place { offset: skipped, ..place }, max: options.max_document_bytes };
        Ok(Self { lines, line: vec![], cut })
    }

    fn next(&mut self) -> Result<Option<Raw>> {
        let Self { lines, line, cut } = self;
        match cut {
            Cut::Json => whole_line(lines, line, true),
            Cut::Line => whole_line(lines, line, false),
            Cut::Paragraph => paragraph(lines, line),
            Cut::File { started } => part(lines, line, started),
            Cut::Wikitext { cleaner, ready, text, ended } => wikitext(lines, line, cleaner, ready, text, ended),
        }
    }
}

fn raw(bytes: Vec<u8>, place: Place) -> Raw {
    Raw { bytes, json: false, starts: true, ends: true, place }
}

fn is_blank(line: &[u8]) -> bool {
    line.trim_ascii().is_empty()
}

fn whole_line(lines: &mut Lines, line: &mut Vec<u8>, json: bool) -> Result<Option<Raw>> {
    while lines.read(line)? {
        if !is_blank(line) {
            return Ok(Some(Raw { json, ..raw(line.trim_ascii_end().to_vec(), lines.place.clone()) }));
        }
    }
    Ok(None)
}

fn paragraph(lines: &mut Lines, line: &mut Vec<u8>) -> Result<Option<Raw>> {
    let mut text: Option<Raw> = None;
    while lines.read(line)? {
        match (&mut text, is_blank(line)) {
            (None, true) => {}
            (Some(_), true) => break,
            (None, false) => text = Some(raw(line.clone(), lines.place.clone())),
            (Some(t), false) if t.bytes.len() + line.len() > lines.max => {
                return t.place.error(
                    0,
                    "a paragraph is longer than max_document_bytes",
                    "split it, or raise the limit",
                );
            }
            (Some(t), false) => t.bytes.extend_from_slice(line),
        }
    }
    if let Some(t) = &mut text {
        t.bytes.truncate(t.bytes.trim_ascii_end().len());
    }
    Ok(text)
}

/// A file in parts that end with a line; the last, perhaps empty, part ends the document.
fn part(lines: &mut Lines, line: &mut Vec<u8>, started: &mut bool) -> Result<Option<Raw>> {
    let mut text: Option<Raw> = None;
    loop {
        if !lines.read(line)? {
            break;
        }
        match &mut text {
            None => text = Some(raw(line.clone(), lines.place.clone())),
            Some(t) => t.bytes.extend_from_slice(line),
        }
        if text.as_ref().is_some_and(|t| t.bytes.len() >= PART_BYTES) {
            break;
        }
    }
    let full = text.as_ref().is_some_and(|t| t.bytes.len() >= PART_BYTES);
    let Some(t) = text else {
        // Nothing is left: close the document if one is open.
        return Ok(std::mem::take(started).then(|| Raw { starts: false, ..raw(vec![], lines.place.clone()) }));
    };
    let starts = !std::mem::replace(started, full);
    Ok(Some(Raw { starts, ends: !full, ..t }))
}

fn wikitext(
    lines: &mut Lines,
    line: &mut Vec<u8>,
    cleaner: &mut WikitextCleaner,
    ready: &mut VecDeque<String>,
    text: &mut String,
    ended: &mut bool,
) -> Result<Option<Raw>> {
    while ready.is_empty() && !*ended {
        let mut piece = String::new();
        while piece.len() < BATCH_BYTES && !*ended {
            if lines.read(line)? {
                piece.push_str(&decode(line, &lines.place)?);
            } else {
                *ended = true;
            }
        }
        text.push_str(&cleaner.push(&piece));
        if *ended {
            text.push_str(&cleaner.finish());
        }
        let mut rest = 0;
        while let Some(at) = text[rest..].find("\n\n") {
            keep(&text[rest..rest + at], ready);
            rest += at + 2;
        }
        if *ended {
            keep(&text[rest..], ready);
            rest = text.len();
        }
        text.drain(..rest);
        if text.len() > lines.max {
            return lines.too_long();
        }
    }
    Ok(ready.pop_front().map(|t| raw(t.into_bytes(), lines.place.clone())))
}

/// Keeps a paragraph unless it is empty or a heading.
fn keep(paragraph: &str, ready: &mut VecDeque<String>) {
    if !paragraph.is_empty() && !paragraph.trim().starts_with('=') {
        ready.push_back(paragraph.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Everything that can be read from `bytes`, or the code of the error.
    fn read(bytes: &[u8], format: InputFormat, text_unit: TextUnit) -> std::result::Result<Vec<Raw>, &'static str> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in");
        std::fs::write(&path, bytes).unwrap();
        let paths = vec![path.to_string_lossy().into_owned()];
        let options = InputOptions { format, text_unit, max_document_bytes: 400, ..InputOptions::new(paths) };
        let mut input = Input::open(&options).map_err(|e| e.code.id)?;
        let mut all = vec![];
        while let Some(batch) = input.next_batch().map_err(|e| e.code.id)? {
            all.extend(batch);
        }
        Ok(all)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn any_bytes_give_documents_or_an_error(bytes in prop::collection::vec(prop_oneof![
            prop::sample::select(&b"\n\r {}\"a:[]=.,'()"[..]), any::<u8>(),
        ], 0..300)) {
            let formats = [InputFormat::Jsonl, InputFormat::Text, InputFormat::Wikitext];
            for format in formats {
                for raw in read(&bytes, format, TextUnit::Paragraph).unwrap_or_default() {
                    let _ = raw.texts(&["a".into()]);
                }
            }
        }

        #[test]
        fn a_file_as_one_document_loses_no_byte(lines in prop::collection::vec("[ a-z]{0,20}\n", 0..40)) {
            let text = lines.concat();
            let parts = read(text.as_bytes(), InputFormat::Text, TextUnit::File).unwrap();
            let joined: Vec<u8> = parts.iter().flat_map(|p| p.bytes.clone()).collect();
            prop_assert_eq!(joined, text.as_bytes());
            prop_assert_eq!(parts.iter().filter(|p| p.ends).count(), usize::from(!lines.is_empty()));
        }
    }
}
