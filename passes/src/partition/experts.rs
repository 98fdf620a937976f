//! Rows of experts as [`super::check`] follows them: who sorted them, and which of them a rank has.

use super::check::Spread;
use super::spread::{Axes, form};
use athanor_ir::experts::GroupedForm;
use athanor_ir::{Binary, CollectiveKind, Op, ReduceKind, Unary};

/// Axes that cut the tokens of `slots […, k]`, and with them their rows.
pub(super) fn tokens(slots: &Spread) -> Axes {
    let lead = slots.dims.iter().rev().skip(1);
    lead.fold(Axes::NONE, |all, axes| all.or(axes.unwrap_or_default()))
}

/// What a value has to do with rows sorted by expert.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Experts {
    /// It says where rows are, among those of the part of the tokens that these axes cut out.
    places: Option<Axes>,
    /// Over these axes a rank has the rows of some experts only.
    window: Axes,
    /// The rows of the others are zeros.
    clean: bool,
}

impl Experts {
    /// What the results of `op` have to do with rows, and over which axes they are partial because its operands have those of
    /// some experts only.
    pub(super) fn of(op: &Op, operands: &[&Spread]) -> Result<(Self, Axes), String> {
        let plain = |list: &[usize]| list.iter().all(|i| operands.get(*i).is_none_or(|s| s.experts == Self::default()));
        let cut = |i: usize| operands[i].dims.first().copied().flatten().unwrap_or_default();
        let tokens = |i: usize| tokens(operands[i]);
        let sorted = |i: usize, by: Axes| operands[i].experts.places == Some(by);
        let places = |what: &str| Err(format!("takes {what} from a sort of other tokens"));
        let window = |i: usize| operands[i].experts.window;
        let none = (Self::default(), Axes::NONE);
        match op {
            Op::Assign { .. } if plain(&[0, 1]) => {
                Ok((Self { places: Some(tokens(0)), ..Self::default() }, Axes::NONE))
            }
            Op::Dispatch { .. } if plain(&[0, 2]) => {
                if sorted(1, tokens(1)) {
                    Ok(none)
                } else {
                    places("rows")
                }
            }
            Op::Combine | Op::CombineDot if plain(&[2]) && operands[0].experts.places.is_none() => {
                let rows = operands[0].experts;
                if !sorted(1, tokens(1)) {
                    return places("rows");
                }
                if rows.window.is_empty() || rows.clean {
                    Ok((Self::default(), rows.window))
                } else {
                    Err("adds up rows that are not those of the own experts".into())
                }
            }
            Op::GroupedEinsum { .. } => {
                let by_rows = form(op) == Some(GroupedForm::Rows);
                let own = cut(2);
                if !sorted(2, cut(0)) {
                    return places("spans");
                }
                let rows: &[usize] = if by_rows { &[0] } else { &[0, 1] };
                if rows.iter().any(|i| operands[*i].experts.places.is_some() || !window(*i).without(own).is_empty()) {
                    return Err("multiplies rows of other experts than its matrices are".into());
                }
                let added = operands.get(3).map(|acc| acc.experts).unwrap_or_default();
                let result = Self { places: None, window: own, clean: true };
                if by_rows {
                    let fits = operands.len() < 4 || own.is_empty() || added == result;
                    if !fits || !plain(&[1]) {
                        return Err("adds a product to rows of other experts".into());
                    }
                    let result = if own.is_empty() { Self::default() } else { result };
                    return Ok((result, Axes::NONE));
                }
                if plain(&[3]) { Ok(none) } else { Err("adds a product to rows".into()) }
            }
            Op::Unary(_) | Op::Binary(_) | Op::Cast => {
                let mut windows = operands.iter().map(|s| s.experts.window).filter(|w| !w.is_empty());
                if operands.iter().any(|s| s.experts.places.is_some()) {
                    return Err("calculates with places of rows".into());
                }
                let Some(first) = windows.next() else { return Ok(none) };
                if windows.any(|w| w != first) {
                    return Err("joins rows of different experts".into());
                }
                let clean = stays_clean(op, operands);
                Ok((Self { places: None, window: first, clean }, Axes::NONE))
            }
            _ if operands.iter().all(|s| s.experts == Self::default()) => Ok(none),
            _ => Err("reads rows of some experts as if they were all".into()),
        }
    }

    /// Whether ranks may do `kind` with the value: take their part of the spans, or add up what is partial in every row.
    pub(super) fn may(self, kind: CollectiveKind) -> bool {
        match kind {
            CollectiveKind::OwnPart { .. } => self.window.is_empty(),
            CollectiveKind::AllReduce { reduce: ReduceKind::Sum } => self.places.is_none(),
            _ => self == Self::default(),
        }
    }
}

/// Whether the rows of other experts are zeros after element-wise `op`, given what its operands have there.
fn stays_clean(op: &Op, operands: &[&Spread]) -> bool {
    let zero = |s: &&Spread| !s.experts.window.is_empty() && s.experts.clean;
    match op {
        Op::Binary(Binary::Mul) => operands.iter().any(zero),
        Op::Binary(Binary::Add | Binary::Sub) | Op::Cast => operands.iter().all(zero),
        Op::Unary(u) => {
            matches!(
                u,
                Unary::Neg
                    | Unary::Sqrt
                    | Unary::Tanh
                    | Unary::Silu
                    | Unary::Gelu
                    | Unary::GeluErf
                    | Unary::Square
                    | Unary::Sign
            ) && operands.iter().all(zero)
        }
        _ => false,
    }
}
