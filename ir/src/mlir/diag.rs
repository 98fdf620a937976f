//! What MLIR says, as diagnostics.

use super::decode::read_place;
use super::ffi::Place;
use crate::diag::{Code, Diagnostic, SourceFile};
use crate::func::Loc;
use melior::Context;
use melior::diagnostic::DiagnosticSeverity;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// One message of MLIR.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    error: bool,
    text: String,
    loc: Loc,
}

/// Runs `work` and collects what MLIR says meanwhile.
pub(super) fn listen<T>(context: &Context, work: impl FnOnce() -> T) -> (T, Vec<Heard>) {
    let heard = Rc::new(RefCell::new(vec![]));
    let sink = Rc::clone(&heard);
    let id = context.attach_diagnostic_handler(move |d| {
        let mut text = d.to_string();
        // Notes that repeat the whole operation are noise beside the place; the others say what is wrong.
        for note in (0..d.note_count()).filter_map(|i| d.note(i).ok()) {
            let note = note.to_string();
            if !note.starts_with("see current operation") {
                text = format!("{text}; {note}");
            }
        }
        let loc = read_place(Place::of(d.location()), |t| t.into());
        sink.borrow_mut().push(Heard { error: matches!(d.severity(), DiagnosticSeverity::Error), text, loc });
        true
    });
    let result = work();
    context.detach_diagnostic_handler(id);
    let heard = heard.take();
    (result, heard)
}

/// ` (at …)`, or nothing for an unknown place.
fn place_text(loc: &Loc) -> String {
    let file = if loc.line > 0 { format!("{}:{}:{}", loc.file, loc.line, loc.col) } else { loc.file.to_string() };
    match (loc.block.is_empty(), file.is_empty()) {
        (true, true) => String::new(),
        (false, true) => format!(" (in {})", loc.block),
        (true, false) => format!(" (at {file})"),
        (false, false) => format!(" (in {} at {file})", loc.block),
    }
}

/// The first error that was heard, or `otherwise`, marked in `source` if it is there.
pub(super) fn explain(
    heard: &[Heard],
    code: &'static Code,
    otherwise: &str,
    source: Option<&Arc<SourceFile>>,
) -> Diagnostic {
    let first = heard.iter().find(|h| h.error).or(heard.first());
    let Some(first) = first else { return Diagnostic::error(code, otherwise) };
    located(code, &first.text, &first.loc, source)
}

/// A diagnostic at `loc`: marked in `source` if that is the file, else with the place in its message.
pub(super) fn located(code: &'static Code, text: &str, loc: &Loc, source: Option<&Arc<SourceFile>>) -> Diagnostic {
    let Some((source, at)) = source.and_then(|s| Some((s, offset(s, loc)?))) else {
        return Diagnostic::error(code, format!("{text}{}", place_text(loc)));
    };
    let block = Loc { block: Arc::clone(&loc.block), ..Loc::default() };
    let end = source.text.ceil_char_boundary((at + 1).min(source.text.len()));
    Diagnostic::error(code, format!("{text}{}", place_text(&block))).at(source, at..end, "here")
}

/// Byte offset of a place in `source`; MLIR counts columns in bytes from 1.
fn offset(source: &SourceFile, loc: &Loc) -> Option<usize> {
    if *loc.file != *source.name || loc.line == 0 {
        return None;
    }
    let mut start = 0;
    for _ in 1..loc.line {
        start += source.text.get(start..)?.find('\n')? + 1;
    }
    let line = source.text[start..].split('\n').next().unwrap_or_default().len();
    Some(source.text.floor_char_boundary(start + (loc.col.max(1) as usize - 1).min(line)))
}
