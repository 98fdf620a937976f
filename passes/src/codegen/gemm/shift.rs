//! Where the part of an expert lies in the operands of a grouped product.

use super::text::{Text, Value};

/// What is added to indices of a product to reach an expert's matrices in a stack of them; nothing in a dense product.
#[derive(Debug, Default)]
pub struct Shift {
    /// Added to k for B.
    pub b_k: Option<Value>,
    /// Added to the column for B.
    pub b_column: Option<Value>,
    /// Added to the row for C.
    pub c_row: Option<Value>,
}

/// `value`, further by `by` if that is given.
pub fn shifted(t: &mut Text, value: &Value, by: Option<&Value>) -> Value {
    by.map_or_else(|| value.clone(), |by| t.add(value, by))
}
