//! Index files that are built once and mapped by every process, named and laid out as MindFormers does.
//!
//! The name has the md5 of a description in it; a file set counts only if its `description.txt` is that description
//! and the arrays have the sizes that the dataset implies. Arrays are written first and the description last, each
//! atomically, so that processes may race.

use super::blend::BlendIndex;
use super::gpt::index::{GptIndex, Layout, Shuffle};
use super::npy::{self, Array, Element};
use super::output::Output;
use super::split::{Split, SplitMatrix};
use athanor_ir::diag::{Diagnostic, Result};
use md5::{Digest, Md5};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Name and identity of one set of index files.
#[derive(Debug, Clone)]
pub struct CacheKey {
    dir: PathBuf,
    class: &'static str,
    split: Split,
    description: String,
}

/// What identifies the index of one dataset.
#[derive(Debug, Clone)]
pub struct Identity<'a> {
    /// Prefix as the config gives it.
    pub dataset_path: &'a str,
    /// Samples asked for.
    pub num_samples: Option<u64>,
    /// Which split.
    pub split: Split,
    /// Seed.
    pub random_seed: u32,
    /// Input tokens per sample.
    pub sequence_length: usize,
    /// Text of the split and its fractions, if the splits share their data.
    pub shares: Option<(&'a str, SplitMatrix)>,
}

impl Identity<'_> {
    /// The JSON text that Python's `json.dumps(..., indent=4)` makes of it, each line after the first indented by
    /// `indent` spaces more.
    fn json(&self, indent: usize) -> String {
        let number = |n: Option<u64>| n.map_or("null".to_string(), |n| n.to_string());
        let split = self.shares.map_or("null".to_string(), |(text, _)| py_string(text));
        let matrix = self.shares.map_or("null".to_string(), |(_, matrix)| {
            let rows: Vec<String> = matrix.iter().enumerate().map(|(i, row)| py_row(i, *row)).collect();
            format!("[\n{}\n    ]", rows.join(",\n"))
        });
        let text = format!(
            "{{\n    \"class\": \"GPTDataset\",\n    \"dataset_path\": {},\n    \"num_samples\": {},\n    \
             \"index_split\": \"{}\",\n    \"random_seed\": {},\n    \"sequence_length\": {},\n    \"split\": {split},\n    \
             \"split_matrix\": {matrix},\n    \"tokenizer\": null\n}}",
            py_string(self.dataset_path),
            number(self.num_samples),
            self.split.name(),
            self.random_seed,
            self.sequence_length,
        );
        text.replace('\n', &format!("\n{}", " ".repeat(indent)))
    }
}

fn py_row(i: usize, row: Option<(f64, f64)>) -> String {
    row.map_or("        null".to_string(), |(a, b)| {
        // The very first bookend is the integer 0 in the reference.
        let a = if i == 0 { "0".to_string() } else { py_float(a) };
        format!("        [\n            {a},\n            {}\n        ]", py_float(b))
    })
}

/// Python's `repr` of a float: Rust's shortest form with a two-digit exponent.
fn py_float(v: f64) -> String {
    let text = format!("{v:?}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |d| ('-', d));
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// A JSON string in ASCII, as Python writes it.
fn py_string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out + "\""
}

impl CacheKey {
    /// Files of one dataset's index.
    pub fn gpt(dir: &Path, identity: &Identity<'_>) -> Self {
        let description = identity.json(0);
        Self { dir: dir.to_path_buf(), class: "GPTDataset", split: identity.split, description }
    }

    /// Files of a blend of `size` samples (`None`: each dataset once).
    pub fn blend(dir: &Path, datasets: &[Identity<'_>], split: Split, weights: &[String], size: Option<u64>) -> Self {
        let datasets: Vec<String> = datasets.iter().map(|d| format!("        {}", d.json(8))).collect();
        let weights: Vec<String> = weights.iter().map(|w| format!("        {w}")).collect();
        let description = format!(
            "{{\n    \"class\": \"BlendedDataset\",\n    \"datasets\": [\n{}\n    ],\n    \"split\": \"{}\",\n    \
             \"weights\": [\n{}\n    ],\n    \"size\": {}\n}}",
            datasets.join(",\n"),
            split.name(),
            weights.join(",\n"),
            size.map_or("null".to_string(), |n| n.to_string()),
        );
        Self { dir: dir.to_path_buf(), class: "BlendedDataset", split, description }
    }

    /// Path of the file that ends in `suffix`.
    pub fn path(&self, suffix: &str) -> PathBuf {
        let mut hash = String::new();
        for byte in Md5::digest(self.description.as_bytes()) {
            let _ = write!(hash, "{byte:02x}");
        }
        self.dir.join(format!("{hash}-{}-{}-{suffix}", self.class, self.split.name()))
    }

    /// Whether a set with this description has been written.
    fn is_present(&self) -> bool {
        std::fs::read(self.path("description.txt")).is_ok_and(|text| text == self.description.as_bytes())
    }

    fn array<T: Element>(&self, suffix: &str, len: u64) -> Result<Array<T>> {
        let path = self.path(suffix);
        let array = npy::load(&path)?;
        if array.len() as u64 == len {
            return Ok(array);
        }
        Diagnostic::error(
            &super::codes::CACHE,
            format!("{} has {} entries, the dataset implies {len}", path.display(), array.len()),
        )
        .help("the dataset was built anew since; the index is, too")
        .err()
    }

    fn describe(&self) -> Result<()> {
        let mut out = Output::create(&self.path("description.txt"))?;
        out.write(self.description.as_bytes())?;
        out.commit()
    }

    /// Loads the index of a dataset with `documents` sequences in the split; `None` if there is none yet.
    ///
    /// # Errors
    /// D0012 if the files do not fit the dataset.
    pub fn load_gpt(&self, layout: Layout, documents: u64) -> Result<Option<GptIndex>> {
        if !self.is_present() {
            return Ok(None);
        }
        let document = self.array("document_index.npy", layout.epochs * documents)?;
        let sample = self.array("sample_index.npy", layout.samples + 1)?;
        let shuffle = if Shuffle::is_wide(layout.samples) {
            Shuffle::Wide(self.array("shuffle_index.npy", layout.samples)?)
        } else {
            Shuffle::Narrow(self.array("shuffle_index.npy", layout.samples)?)
        };
        Ok(Some(GptIndex { layout, document, sample, shuffle }))
    }

    /// Writes the index of a dataset.
    ///
    /// # Errors
    /// D0013 if the directory cannot be written.
    pub fn save_gpt(&self, index: &GptIndex) -> Result<()> {
        npy::save(&self.path("document_index.npy"), index.document.as_slice())?;
        npy::save(&self.path("sample_index.npy"), index.sample.as_slice())?;
        match &index.shuffle {
            Shuffle::Narrow(a) => npy::save(&self.path("shuffle_index.npy"), a.as_slice())?,
            Shuffle::Wide(a) => npy::save(&self.path("shuffle_index.npy"), a.as_slice())?,
        }
        self.describe()
    }

    /// Loads the index of a blend of `size` samples; `None` if there is none yet.
    ///
    /// # Errors
    /// D0012 if the files do not fit.
    pub fn load_blend(&self, size: u64) -> Result<Option<(Array<i16>, Array<i64>)>> {
        if !self.is_present() {
            return Ok(None);
        }
        Ok(Some((self.array("dataset_index.npy", size)?, self.array("dataset_sample_index.npy", size)?)))
    }

    /// Writes the index of a blend.
    ///
    /// # Errors
    /// D0013 if the directory cannot be written.
    pub fn save_blend(&self, index: &BlendIndex) -> Result<()> {
        npy::save(&self.path("dataset_index.npy"), &index.dataset)?;
        npy::save(&self.path("dataset_sample_index.npy"), &index.sample)?;
        self.describe()
    }
}

/// A weight as it stands in a blend's description.
pub fn weight_text(weight: f64) -> String {
    py_float(weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::split::parse_split;

    #[test]
    fn descriptions_are_pythons_json() {
        let id = Identity {
            dataset_path: "/d/é \"q\"",
            num_samples: None,
            split: Split::Train,
            random_seed: 1234,
            sequence_length: 16,
            shares: Some(("98,2,0", parse_split("98,2,0").unwrap())),
        };
        // python3: json.dumps({"class": "GPTDataset", "dataset_path": '/d/é "q"', "num_samples": None, ...}, indent=4)
        let expected = "{\n    \"class\": \"GPTDataset\",\n    \"dataset_path\": \"/d/\\u00e9 \\\"q\\\"\",\n    \
                        \"num_samples\": null,\n    \"index_split\": \"train\",\n    \"random_seed\": 1234,\n    \
                        \"sequence_length\": 16,\n    \"split\": \"98,2,0\",\n    \"split_matrix\": [\n        [\n            \
                        0,\n            0.98\n        ],\n        [\n            0.98,\n            1.0\n        ],\n        \
                        null\n    ],\n    \"tokenizer\": null\n}";
        assert_eq!(id.json(0), expected);
        let key = CacheKey::gpt(Path::new("c"), &id);
        assert_eq!(key.path("x.npy"), Path::new("c/7e2ba06b4e2f9665c4a68d834a0014c1-GPTDataset-train-x.npy"));
    }

    #[test]
    fn floats_are_written_as_python_writes_them() {
        let texts: Vec<String> = [1.0, 0.3, 1e-5, 1.5e-7, 1e16, 0.0001].map(py_float).to_vec();
        assert_eq!(texts, ["1.0", "0.3", "1e-05", "1.5e-07", "1e+16", "0.0001"]);
    }
}
