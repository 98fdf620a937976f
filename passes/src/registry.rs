//! The list of passes: name, sentence, options, constructor.

use crate::options::{Options, Spec};
use crate::pass::Pass;
use crate::{
    autodiff, bucket, dce, fuse, offload, optimizer, overlap, partition, pipeline, recompute, simplify, slices,
    split_stages,
};
use athanor_ir::{Code, Diagnostic, Result};

/// Every pass, in the order in which a compilation meets them.
pub const PASSES: &[&Entry] = &[
    &simplify::ENTRY,
    &autodiff::ENTRY,
    &optimizer::ENTRY,
    &slices::ENTRY,
    &partition::ENTRY,
    &split_stages::ENTRY,
    &bucket::ENTRY,
    &fuse::ENTRY,
    &recompute::ENTRY,
    &offload::ENTRY,
    &overlap::ENTRY,
    &dce::ENTRY,
];

/// What the registry knows of a pass; each pass file holds its own as `ENTRY`.
#[derive(Debug)]
pub struct Entry {
    /// The kebab-case name in pipelines.
    pub name: &'static str,
    /// One sentence that says what it does.
    pub summary: &'static str,
    /// Its options; the fields of the pass.
    pub options: &'static [Spec],
    /// Makes the pass. Names and types of the options are checked before; the constructor checks what they mean.
    pub build: fn(&Options) -> Result<Box<dyn Pass>>,
}

/// A pipeline names a pass that does not exist.
pub const UNKNOWN_PASS: Code = Code {
    id: "P0001",
    title: "there is no pass of this name",
    explain: "A pipeline such as `simplify,fuse{backend=cpu}` names passes by their kebab-case names. \
              `athanor explain passes` lists them.",
};

/// The pass called `name`.
///
/// # Errors
/// [`UNKNOWN_PASS`], with the nearest name.
pub fn find(name: &str) -> Result<&'static Entry> {
    if let Some(entry) = PASSES.iter().find(|e| e.name == name) {
        return Ok(entry);
    }
    let names = PASSES.iter().map(|e| e.name);
    let help = match pipeline::nearest(name, names.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the passes are {}", names.collect::<Vec<_>>().join(", ")),
    };
    Diagnostic::error(&UNKNOWN_PASS, format!("there is no pass called {name:?}")).help(help).err()
}

/// The passes that `text` names, such as `simplify,fuse{backend=cpu}`. An empty text is an empty pipeline.
///
/// # Errors
/// A coded diagnostic for bad syntax, an unknown pass or option, or an option value of the wrong type.
pub fn build(text: &str) -> Result<Vec<Box<dyn Pass>>> {
    pipeline::parse(text)?
        .iter()
        .map(|stage| {
            let entry = find(&stage.pass)?;
            (entry.build)(&Options::check(entry.name, entry.options, &stage.options)?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kebab_case_and_unique_and_options_have_sound_defaults() {
        for (i, e) in PASSES.iter().enumerate() {
            assert!(e.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{}", e.name);
            assert!(PASSES[..i].iter().all(|o| o.name != e.name), "{}", e.name);
            assert!(e.summary.ends_with('.'), "{}", e.name);
            let pass = build(e.name).unwrap_or_else(|d| panic!("{} from its defaults: {d}", e.name));
            assert_eq!((pass[0].name(), pass[0].summary()), (e.name, e.summary));
        }
    }

    #[test]
    fn an_unknown_pass_is_answered_with_the_nearest() {
        let e = build("dcee").err().unwrap();
        assert_eq!(e.code, &UNKNOWN_PASS);
        assert_eq!(e.help.as_deref(), Some("did you mean `dce`?"));
    }
}
