//! The `nn` dialect as IRDL text, generated from the op table.
//!
//! IRDL checks the number of operands and results and the attributes. One constraint holds for all operands of a
//! variadic op and forces them to one type, so operands of differing types travel as one tuple.

use super::table::{Field, operands, results, samples, visit};
use crate::op::Op;
use std::fmt::Write;

/// The dialect as it is loaded; [`generate`] writes it and a test keeps it fresh.
pub(super) const TEXT: &str = include_str!("nn.irdl.mlir");

/// Constraint of an attribute, as IRDL ops; the last defines `%name`.
fn attribute(out: &mut String, name: &str, field: Field<'_>) -> std::fmt::Result {
    let any_of = |out: &mut String, alternatives: &[String]| {
        let names: Vec<String> = (0..alternatives.len()).map(|i| format!("%{name}_{i}")).collect();
        for (n, a) in names.iter().zip(alternatives) {
            writeln!(out, "    {n} = irdl.is {a}")?;
        }
        writeln!(out, "    %{name} = irdl.any_of({})", names.join(", "))
    };
    let base = |out: &mut String, of: &str| writeln!(out, "    %{name} = irdl.base \"#builtin.{of}\"");
    match field {
        Field::Float(_) => base(out, "float"),
        Field::Int(_) => base(out, "integer"),
        Field::Text(_) => base(out, "string"),
        Field::Ints(_) | Field::Floats(_) => base(out, "dense_array"),
        Field::Bool(_) => any_of(out, &["false".into(), "true".into()]),
        Field::Word(_, words) => any_of(out, &words.iter().map(|w| format!("{w:?}")).collect::<Vec<_>>()),
    }
}

/// Constraints of operands (`kind` "operands") or results, `fewest` to `most` of them.
fn values(fewest: usize, most: Option<usize>, kind: &str) -> String {
    let prefix = &kind[..kind.len() - 1];
    let mut out = String::new();
    let mut names = vec![];
    for i in 0..most.unwrap_or(0) {
        out += &format!("    %{prefix}_{i} = irdl.base \"!builtin.tensor\"\n");
        names.push(format!("{prefix}_{i}: {}%{prefix}_{i}", if i < fewest { "" } else { "optional " }));
    }
    if most.is_none() {
        out += &format!("    %{prefix}_tensor = irdl.base \"!builtin.tensor\"\n");
        out += &format!("    %{prefix}_tuple = irdl.base \"!builtin.tuple\"\n");
        out += &format!("    %{prefix} = irdl.any_of(%{prefix}_tensor, %{prefix}_tuple)\n");
        names.push(format!("{prefix}s: variadic %{prefix}"));
    }
    if !names.is_empty() {
        out += &format!("    irdl.{kind}({})\n", names.join(", "));
    }
    out
}

/// The IRDL text of the `nn` dialect, written from the op table.
///
/// # Panics
/// Never: writing to a string does not fail.
pub fn generate() -> String {
    let mut out = String::from(
        "// The nn dialect. Generated from the op table (ir/src/mlir/table.rs): do not edit, run\n\
         // ATHANOR_BLESS=1 cargo test -p athanor-ir --features mlir dialect\n\
         irdl.dialect @nn {\n",
    );
    // Calls are func.call, which checks the callee too.
    for op in samples().iter().filter(|op| !matches!(op, Op::Call { .. })) {
        out += &format!("  irdl.operation @{} {{\n", op.name());
        let (fewest, most) = operands(op);
        out += &values(fewest, most, "operands");
        out += &values(results(op).unwrap_or(0), results(op), "results");
        let mut names = vec![];
        visit(op, |name, field| {
            attribute(&mut out, name, field).expect("writing to a string");
            names.push(format!("{name:?} = %{name}"));
        });
        if !names.is_empty() {
            out += &format!("    irdl.attributes {{{}}}\n", names.join(", "));
        }
        out += "  }\n";
    }
    out + "}\n"
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
