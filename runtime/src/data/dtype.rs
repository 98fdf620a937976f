//! Token types of data files.

use serde::{Deserialize, Serialize};

/// Element type of a token file; the codes are those of byte 17 of a Megatron `.idx` file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the variants are the types they are named after")]
pub enum TokenType {
    Uint8 = 1,
    Int8 = 2,
    Int16 = 3,
    Int32 = 4,
    Int64 = 5,
    Float64 = 6,
    Float32 = 7,
    Uint16 = 8,
}

impl TokenType {
    /// Every type, in order of its code.
    pub const ALL: [Self; 8] =
        [Self::Uint8, Self::Int8, Self::Int16, Self::Int32, Self::Int64, Self::Float64, Self::Float32, Self::Uint16];

    /// The type with this `.idx` code.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|t| *t as u8 == code)
    }

    /// Bytes per token.
    pub fn size(self) -> usize {
        match self {
            Self::Uint8 | Self::Int8 => 1,
            Self::Int16 | Self::Uint16 => 2,
            Self::Int32 | Self::Float32 => 4,
            Self::Int64 | Self::Float64 => 8,
        }
    }

    /// numpy's name of the type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uint8 => "uint8",
            Self::Int8 => "int8",
            Self::Int16 => "int16",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Float64 => "float64",
            Self::Float32 => "float32",
            Self::Uint16 => "uint16",
        }
    }

    /// Decodes little-endian `bytes` into `out`, one token each; `Err(i)` if token `i` is not a 32-bit integer.
    ///
    /// # Panics
    /// If `bytes` is not `out.len()` tokens long.
    pub fn decode(self, bytes: &[u8], out: &mut [i32]) -> Result<(), usize> {
        assert_eq!(bytes.len(), out.len() * self.size(), "buffer sizes");
        match self {
            Self::Uint8 => each::<1>(bytes, out, |b| Some(b[0] as i32)),
            Self::Int8 => each::<1>(bytes, out, |b| Some(i8::from_le_bytes(b) as i32)),
            Self::Int16 => each(bytes, out, |b| Some(i16::from_le_bytes(b) as i32)),
            Self::Uint16 => each(bytes, out, |b| Some(u16::from_le_bytes(b) as i32)),
            Self::Int32 => each(bytes, out, |b| Some(i32::from_le_bytes(b))),
            Self::Int64 => each(bytes, out, |b| i32::try_from(i64::from_le_bytes(b)).ok()),
            Self::Float32 => each(bytes, out, |b| integral(f32::from_le_bytes(b) as f64)),
            Self::Float64 => each(bytes, out, |b| integral(f64::from_le_bytes(b))),
        }
    }

    /// Appends `token` as little-endian bytes; `false` if the type cannot hold it.
    #[must_use]
    pub fn encode(self, token: u32, out: &mut Vec<u8>) -> bool {
        macro_rules! push {
            ($t:ty) => {
                <$t>::try_from(token).map(|v| out.extend_from_slice(&v.to_le_bytes())).is_ok()
            };
        }
        match self {
            Self::Uint8 => push!(u8),
            Self::Int8 => push!(i8),
            Self::Int16 => push!(i16),
            Self::Uint16 => push!(u16),
            Self::Int32 => push!(i32),
            Self::Int64 => push!(i64),
            Self::Float64 => push!(f64),
            Self::Float32 => {
                out.extend_from_slice(&(token as f32).to_le_bytes());
                token <= 1 << 24
            }
        }
    }
}

fn integral(v: f64) -> Option<i32> {
    (v.fract() == 0.0 && v >= i32::MIN as f64 && v <= i32::MAX as f64).then_some(v as i32)
}

fn each<const N: usize>(bytes: &[u8], out: &mut [i32], f: impl Fn([u8; N]) -> Option<i32>) -> Result<(), usize> {
    for (i, (o, b)) in out.iter_mut().zip(bytes.as_chunks::<N>().0).enumerate() {
        *o = f(*b).ok_or(i)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_encoding_in_every_type() {
        for t in TokenType::ALL {
            let mut bytes = vec![];
            assert!([0, 1, 7, 127].into_iter().all(|v| t.encode(v, &mut bytes)));
            let mut out = [0; 4];
            assert_eq!(t.decode(&bytes, &mut out), Ok(()));
            assert_eq!((out, TokenType::from_code(t as u8)), ([0, 1, 7, 127], Some(t)));
        }
        assert_eq!(TokenType::from_code(0), None);
        assert_eq!(TokenType::from_code(9), None);
    }

    #[test]
    fn values_that_are_no_token_are_reported() {
        let mut out = [0; 2];
        let wide: Vec<u8> = [1_i64, 1 << 40].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(TokenType::Int64.decode(&wide, &mut out), Err(1));
        let half: Vec<u8> = [f64::NAN, 0.5].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(TokenType::Float64.decode(&half, &mut out), Err(0));
        assert!(!TokenType::Uint16.encode(65536, &mut vec![]));
        assert!(!TokenType::Float32.encode((1 << 24) + 1, &mut vec![]));
    }
}
