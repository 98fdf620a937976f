//! Arrays in numpy's `.npy` format: enough of it to share index files with MindFormers.

use super::codes;
use super::output::Output;
use super::source::{map, open_file};
use athanor_ir::diag::{Diagnostic, Result};
use bytemuck::Pod;
use memmap2::Mmap;
use std::path::Path;

/// An element type with numpy's name for it.
pub trait Element: Pod + Send + Sync {
    /// Such as `<i4`.
    const DESCR: &'static str;
}

impl Element for i16 {
    const DESCR: &'static str = "<i2";
}
impl Element for i32 {
    const DESCR: &'static str = "<i4";
}
impl Element for u32 {
    const DESCR: &'static str = "<u4";
}
impl Element for i64 {
    const DESCR: &'static str = "<i8";
}
/// A row of a two-column array.
impl Element for [i64; 2] {
    const DESCR: &'static str = "<i8";
}

/// A read-only array, in memory or mapped from a `.npy` file.
pub enum Array<T> {
    /// Built in this process.
    Owned(Vec<T>),
    /// The data part of a file.
    Mapped {
        /// The whole file.
        map: Mmap,
        /// Where the data starts.
        start: usize,
    },
}

impl<T: Element> Array<T> {
    /// The elements.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::Owned(v) => v,
            // `load` checked alignment and size.
            Self::Mapped { map, start } => bytemuck::try_cast_slice(&map[*start..]).unwrap_or(&[]),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> std::fmt::Debug for Array<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Owned(_) => "Array::Owned",
            Self::Mapped { .. } => "Array::Mapped",
        })
    }
}

fn header<T: Element>(len: usize) -> String {
    let shape = if size_of::<T>() == 16 { format!("({len}, 2)") } else { format!("({len},)") };
    format!("{{'descr': '{}', 'fortran_order': False, 'shape': {shape}, }}", T::DESCR)
}

/// Writes `data` as version 1.0 of the format, atomically.
///
/// # Errors
/// D0013 if the file cannot be written.
pub fn save<T: Element>(path: &Path, data: &[T]) -> Result<()> {
    let mut head = header::<T>(data.len());
    // Magic, version and length take 10 bytes; data starts at a multiple of 64.
    let padded = (10 + head.len() + 1).next_multiple_of(64) - 10;
    head.push_str(&" ".repeat(padded - head.len() - 1));
    head.push('\n');
    let mut out = Output::create(path)?;
    out.write(b"\x93NUMPY\x01\x00")?;
    out.write(&(padded as u16).to_le_bytes())?;
    out.write(head.as_bytes())?;
    out.write(bytemuck::cast_slice(data))?;
    out.commit()
}

/// Maps a file written by [`save`] or `numpy.save`.
///
/// # Errors
/// D0001 if it cannot be opened, D0012 if it is not an array of this type or is cut off.
pub fn load<T: Element>(path: &Path) -> Result<Array<T>> {
    let (file, len) = open_file(path)?;
    let damaged = |why: &str| {
        Diagnostic::error(&codes::CACHE, format!("{}: {why}", path.display())).help("delete the file").err()
    };
    if len < 10 {
        return damaged("the file is cut off");
    }
    let map = map(&file, path)?;
    if !map.starts_with(b"\x93NUMPY\x01\x00") {
        return damaged("not an .npy file of version 1");
    }
    let start = 10 + u16::from_le_bytes([map[8], map[9]]) as usize;
    let Some(data) = map.get(start..) else {
        return damaged("the header is cut off");
    };
    let head = String::from_utf8_lossy(&map[10..start]).into_owned();
    let count = data.len() / size_of::<T>();
    if head.trim_end() != header::<T>(count) || data.len() % size_of::<T>() != 0 {
        return damaged(&format!("expected {} bytes of {}, found {}", data.len(), T::DESCR, head.trim_end()));
    }
    if bytemuck::try_cast_slice::<u8, T>(data).is_err() {
        return damaged("the data is not aligned");
    }
    Ok(Array::Mapped { map, start })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_survive_and_have_numpys_header() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        save(&path, &[[1_i64, -2], [3, 4]]).unwrap();
        assert_eq!(load::<[i64; 2]>(&path).unwrap().as_slice(), [[1, -2], [3, 4]]);
        let bytes = std::fs::read(&path).unwrap();
        let head = b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', 'fortran_order': False, 'shape': (2, 2), }";
        assert!(bytes.starts_with(head) && bytes[127] == b'\n' && bytes.len() == 128 + 32);
        save::<u32>(&path, &[]).unwrap();
        assert_eq!(load::<u32>(&path).unwrap().len(), 0);
    }

    #[test]
    fn damaged_and_foreign_arrays_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        save(&path, &[1_i32, 2, 3]).unwrap();
        assert_eq!(load::<i64>(&path).unwrap_err().code.id, "D0012");
        let bytes = std::fs::read(&path).unwrap();
        for cut in [0, 5, 10, 60, 128, 136, 139] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            assert!(load::<i32>(&path).is_err(), "{cut}");
        }
        assert_eq!(load::<i32>(&dir.path().join("none")).unwrap_err().code.id, "D0001");
    }
}
