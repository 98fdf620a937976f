//! Raw token files: little-endian tokens and nothing else.

use super::dtype::TokenType;
use super::source::Source;
use super::spec::TokenBinSpec;
use super::{Columns, Dataset, SampleMut, codes};
use athanor_ir::diag::{Diagnostic, Result};

/// The samples of a raw token file: sample `r` is `seq_length + 1` tokens from token `r · stride`.
#[derive(Debug)]
pub struct TokenBin {
    source: Source,
    dtype: TokenType,
    stride: u64,
    seq_length: usize,
    samples: u64,
}

impl TokenBin {
    /// Opens the file and counts the samples that fit.
    ///
    /// # Errors
    /// If the file is missing, not a whole number of tokens, or shorter than one sample; if the token type is not
    /// `uint16` or `int32`, or stride or sequence length is 0.
    pub fn open(spec: &TokenBinSpec) -> Result<Self> {
        let bad = |message: String, help: &str| Diagnostic::error(&codes::SPEC, message).help(help).err();
        if !matches!(spec.dtype, TokenType::Uint16 | TokenType::Int32) {
            return bad(format!("TokenBinDataLoader cannot read {}", spec.dtype.name()), "dtype is uint16 or int32");
        }
        if spec.stride == 0 || spec.seq_length == 0 {
            return bad(
                format!("stride {} and seq_length {} must be positive", spec.stride, spec.seq_length),
                "stride: seq_length + 1 reads samples without overlap",
            );
        }
        let source = Source::open(&spec.path, false)?;
        let size = spec.dtype.size() as u64;
        let fail = |message: String, help: String| Diagnostic::error(&codes::TOKEN_BIN, message).help(help).err();
        let name = spec.path.display();
        if !source.len.is_multiple_of(size) {
            return fail(
                format!("{name} has {} bytes, which is no whole number of {} tokens", source.len, spec.dtype.name()),
                format!("the file was cut off, or dtype is not {}", spec.dtype.name()),
            );
        }
        let (tokens, need) = (source.len / size, (spec.seq_length as u64).saturating_add(1));
        if tokens < need {
            return fail(
                format!("{name} has {tokens} tokens; one sample needs seq_length + 1 = {need}"),
                "use a longer file or a smaller seq_length".into(),
            );
        }
        let samples = (tokens - need) / spec.stride + 1;
        Ok(Self { source, dtype: spec.dtype, stride: spec.stride, seq_length: spec.seq_length, samples })
    }

    /// Byte offset of token `offset` of sample `index`.
    fn byte_offset(&self, index: u64, offset: usize) -> u64 {
        (index * self.stride + offset as u64) * self.dtype.size() as u64
    }
}

impl Dataset for TokenBin {
    fn len(&self) -> u64 {
        self.samples
    }

    fn seq_length(&self) -> usize {
        self.seq_length
    }

    fn sample(&self, index: u64, out: &mut SampleMut<'_>) -> Result<()> {
        if index >= self.samples {
            return Diagnostic::error(
                &codes::SPEC,
                format!("sample {index} asked of {}, which has {}", self.source.path.display(), self.samples),
            )
            .err();
        }
        let mut bytes = vec![0; (self.seq_length + 1) * self.dtype.size()];
        self.source.read_at(self.byte_offset(index, 0), &mut bytes)?;
        let s = self.seq_length;
        // Neither uint16 nor int32 has values that are not a 32-bit integer, so decoding cannot fail.
        let size = self.dtype.size();
        let decoded = self.dtype.decode(&bytes[..s * size], out.tokens).is_ok()
            && self.dtype.decode(&bytes[size..], out.labels).is_ok();
        debug_assert!(decoded);
        Ok(())
    }

    fn columns(&self) -> Columns {
        Columns::default()
    }

    fn locate(&self, index: u64, offset: usize) -> String {
        format!("{}, byte {}", self.source.path.display(), self.byte_offset(index, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn file(dir: &Path, bytes: &[u8]) -> std::path::PathBuf {
        let path = dir.join("tokens.bin");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn spec(path: std::path::PathBuf, dtype: TokenType, stride: u64, seq_length: usize) -> TokenBinSpec {
        TokenBinSpec { path, dtype, stride, seq_length }
    }

    fn read(d: &TokenBin, i: u64) -> (Vec<i32>, Vec<i32>) {
        let s = d.seq_length();
        let (mut tokens, mut labels) = (vec![0; s], vec![0; s]);
        d.sample(
            i,
            &mut SampleMut {
                tokens: &mut tokens,
                labels: &mut labels,
                loss_mask: &mut [],
                position_ids: &mut [],
                actual_seq_len: &mut [],
            },
        )
        .unwrap();
        (tokens, labels)
    }

    #[test]
    fn samples_start_at_multiples_of_the_stride() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0_u16..11).flat_map(u16::to_le_bytes).collect();
        let d = TokenBin::open(&spec(file(dir.path(), &bytes), TokenType::Uint16, 4, 4)).unwrap();
        assert_eq!(d.len(), 2);
        assert_eq!(read(&d, 1), (vec![4, 5, 6, 7], vec![5, 6, 7, 8]));
        assert_eq!(d.locate(1, 2).rsplit(' ').next(), Some("12"));
        let overlapping = TokenBin::open(&spec(file(dir.path(), &bytes), TokenType::Uint16, 1, 4)).unwrap();
        assert_eq!(overlapping.len(), 7);
        assert_eq!(read(&overlapping, 6).1, [7, 8, 9, 10]);
    }

    #[test]
    fn the_last_sample_may_end_exactly_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0_i32..10).flat_map(i32::to_le_bytes).collect();
        let d = TokenBin::open(&spec(file(dir.path(), &bytes), TokenType::Int32, 5, 4)).unwrap();
        assert_eq!((d.len(), read(&d, 1).1), (2, vec![6, 7, 8, 9]));
    }

    #[test]
    fn short_odd_and_missing_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let code = |path, dtype, stride, s| TokenBin::open(&spec(path, dtype, stride, s)).unwrap_err().code.id;
        assert_eq!(code(file(dir.path(), &[0; 7]), TokenType::Uint16, 4, 4), "D0008");
        assert_eq!(code(file(dir.path(), &[0; 8]), TokenType::Uint16, 4, 4), "D0008");
        assert_eq!(code(file(dir.path(), &[]), TokenType::Int32, 4, 4), "D0008");
        assert_eq!(code(dir.path().join("none"), TokenType::Int32, 4, 4), "D0001");
        assert_eq!(code(dir.path().to_path_buf(), TokenType::Int32, 4, 4), "D0001");
        assert_eq!(code(file(dir.path(), &[0; 40]), TokenType::Int64, 4, 4), "D0009");
        assert_eq!(code(file(dir.path(), &[0; 40]), TokenType::Int32, 0, 4), "D0009");
    }
}
