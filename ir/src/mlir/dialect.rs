//! The `nn` dialect as IRDL text, generated from the op table.
//!
//! IRDL checks the number of operands and results and the attributes. One constraint holds for all operands of a
//! variadic op and forces them to one type, so operands of differing types travel as one tuple.

use super::table::{Field, operands, results, samples, visit};
use crate::op::Op;

/// The dialect as it is loaded; [`generate`] writes it and a test keeps it fresh.
pub(super) const TEXT: &str = include_str!("nn.irdl.mlir");

/// Constraint of an attribute, as IRDL ops; the last defines `%name`.
fn attribute(name: &str, field: Field<'_>) -> Vec<String> {
    let base = |of: &str| vec![format!("%{name} = irdl.base \"#builtin.{of}\"")];
    let any_of = |alternatives: Vec<String>| {
        let names: Vec<String> = (0..alternatives.len()).map(|i| format!("%{name}_{i}")).collect();
        let each = names.iter().zip(&alternatives).map(|(n, a)| format!("{n} = irdl.is {a}"));
        each.chain([format!("%{name} = irdl.any_of({})", names.join(", "))]).collect()
    };
    match field {
        Field::Float(_) => base("float"),
        Field::Int(_) => base("integer"),
        Field::Text(_) => base("string"),
        Field::Ints(_) | Field::Floats(_) => base("dense_array"),
        Field::Bool(_) => any_of(vec!["false".into(), "true".into()]),
        Field::Word(_, words) => any_of(words.iter().map(|w| format!("{w:?}")).collect()),
    }
}

/// Constraints of `fewest` to `most` values, each called `one`, of the group `kind`: operands or results.
fn values(fewest: usize, most: Option<usize>, one: &str, kind: &str) -> Vec<String> {
    let mut lines = vec![];
    let mut names = vec![];
    for i in 0..most.unwrap_or(0) {
        lines.push(format!("%{one}_{i} = irdl.base \"!builtin.tensor\""));
        names.push(format!("{one}_{i}: {}%{one}_{i}", if i < fewest { "" } else { "optional " }));
    }
    if most.is_none() {
        lines.push(format!("%{one}_tensor = irdl.base \"!builtin.tensor\""));
        lines.push(format!("%{one}_tuple = irdl.base \"!builtin.tuple\""));
        lines.push(format!("%{one} = irdl.any_of(%{one}_tensor, %{one}_tuple)"));
        names.push(format!("{kind}: variadic %{one}"));
    }
    if !names.is_empty() {
        lines.push(format!("irdl.{kind}({})", names.join(", ")));
    }
    lines
}

/// The definition of one op.
fn operation(op: &Op) -> String {
    let (fewest, most) = operands(op);
    let mut lines = values(fewest, most, "operand", "operands");
    lines.extend(values(results(op).unwrap_or(0), results(op), "result", "results"));
    let mut names = vec![];
    visit(op, |name, field| {
        lines.extend(attribute(name, field));
        names.push(format!("{name:?} = %{name}"));
    });
    if !names.is_empty() {
        lines.push(format!("irdl.attributes {{{}}}", names.join(", ")));
    }
    format!("  irdl.operation @{} {{\n    {}\n  }}\n", op.name(), lines.join("\n    "))
}

/// The IRDL text of the `nn` dialect, written from the op table.
pub fn generate() -> String {
    let head = "// The nn dialect. Generated from the op table (ir/src/mlir/table.rs): do not edit, run\n\
                // ATHANOR_BLESS=1 cargo test -p athanor-ir --features mlir dialect\n\
                irdl.dialect @nn {\n";
    // Calls are func.call, which checks the callee too.
    let ops = samples().into_iter().filter(|op| !matches!(op, Op::Call { .. }));
    format!("{head}{}}}\n", ops.map(|op| operation(&op)).collect::<String>())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_committed_dialect_is_fresh() {
        let fresh = super::generate();
        if std::env::var_os("ATHANOR_BLESS").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/mlir/nn.irdl.mlir");
            std::fs::write(path, &fresh).unwrap();
        } else {
            assert_eq!(super::TEXT, fresh, "run the command in its head to renew nn.irdl.mlir");
        }
    }
}
