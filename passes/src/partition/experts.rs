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
    /// Over these axes rows are where their experts are, and not where their tokens are.
    sent: Axes,
    /// It is a number of rounds, on which ranks along these axes agree.
    rounds: Option<Axes>,
}

impl Experts {
    /// Rows of some experts over `window`, zeros where others would be, that lie as `sent` says.
    fn rows(window: Axes, sent: Axes) -> Self {
        Self { window, clean: !window.is_empty(), sent, ..Self::default() }
    }

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
            Op::Assign { .. } if plain(&[1]) && operands[0].experts.may_be_sorted() => {
                let Self { window, sent, .. } = operands[0].experts;
                Ok((Self { places: Some(tokens(0)), window, sent, ..Self::default() }, Axes::NONE))
            }
            Op::Dispatch { .. } if plain(&[2]) && operands[0].experts.places.is_none() => {
                let (x, rows) = (operands[0].experts, operands[1].experts);
                if !sorted(1, tokens(1)) {
                    places("rows")
                } else if rows.sent.is_empty() && x == Self::default() {
                    Ok((Self::rows(rows.window, Axes::NONE), Axes::NONE))
                } else if !rows.sent.is_empty() && (x.window, x.sent) == (rows.window, rows.sent) {
                    Ok((x, Axes::NONE))
                } else {
                    Err("takes rows that lie with other ranks".into())
                }
            }
            Op::Combine | Op::CombineDot if plain(&[2]) && operands[0].experts.places.is_none() => {
                let (rows, by) = (operands[0].experts, operands[1].experts);
                if !sorted(1, tokens(1)) {
                    return places("rows");
                }
                if rows.sent != by.sent || !by.window.without(rows.window).is_empty() {
                    return Err("adds up rows that lie with other ranks".into());
                }
                match (rows.window.is_empty() || rows.clean, rows.sent.is_empty()) {
                    (false, _) => Err("adds up rows that are not those of the own experts".into()),
                    (true, true) => Ok((Self::default(), rows.window)),
                    // They are put in another order, and still rows.
                    (true, false) if *op == Op::Combine => Ok((rows, Axes::NONE)),
                    (true, false) => Err("multiplies rows that lie with other ranks".into()),
                }
            }
            Op::GroupedEinsum { .. } => {
                let by_rows = form(op) == Some(GroupedForm::Rows);
                let (own, sent) = (cut(2), operands[2].experts.sent);
                if !sorted(2, cut(0)) {
                    return places("spans");
                }
                let rows: &[usize] = if by_rows { &[0] } else { &[0, 1] };
                let others = |i: &usize| {
                    let x = operands[*i].experts;
                    x.places.is_some() || x.sent != sent || !window(*i).without(own).is_empty()
                };
                if rows.iter().any(others) {
                    return Err("multiplies rows of other experts than its matrices are".into());
                }
                let added = operands.get(3).map(|acc| acc.experts).unwrap_or_default();
                let result = Self::rows(own.without(sent), sent);
                if by_rows {
                    let fits = operands.len() < 4 || own.is_empty() || added == result;
                    if !fits || !plain(&[1]) {
                        return Err("adds a product to rows of other experts".into());
                    }
                    return Ok((result, Axes::NONE));
                }
                if plain(&[3]) { Ok(none) } else { Err("adds a product to rows".into()) }
            }
            Op::Unary(_) | Op::Binary(_) | Op::Cast => {
                let mut windows = operands.iter().map(|s| s.experts.window).filter(|w| !w.is_empty());
                if operands.iter().any(|s| s.experts.places.is_some() || s.experts.rounds.is_some()) {
                    return Err("calculates with places of rows".into());
                }
                // What is the same whatever the row lies everywhere.
                let known = operands.iter().filter(|s| s.dims.iter().any(Option::is_some));
                let mut lies = known.map(|s| s.experts.sent);
                let sent = lies.next().unwrap_or_default();
                if lies.any(|other| other != sent) {
                    return Err("joins rows that lie with other ranks".into());
                }
                let Some(first) = windows.next() else { return Ok((Self::rows(Axes::NONE, sent), Axes::NONE)) };
                if windows.any(|w| w != first) {
                    return Err("joins rows of different experts".into());
                }
                let clean = stays_clean(op, operands);
                Ok((Self { window: first, clean, sent, ..Self::default() }, Axes::NONE))
            }
            _ if operands.iter().all(|s| s.experts == Self::default()) => Ok(none),
            _ => Err("reads rows of some experts as if they were all".into()),
        }
    }

    /// What a round takes of sorted tokens, of the part that axes `by` cut out: where slots go, and rows of the experts of a column
    /// of ranks along `column`.
    pub(super) fn portion(by: Axes, operands: &[&Spread], column: Axes) -> Result<(Self, Self), String> {
        let sorted = Self { places: Some(by), ..Self::default() };
        if operands[..2].iter().any(|s| s.experts != sorted) || operands[2].experts != Self::default() {
            return Err("takes rows from a sort of other tokens".into());
        }
        Ok((Self { window: column, ..sorted }, Self::rows(column, Axes::NONE)))
    }

    /// The number of rounds that follows from these spans.
    pub(super) fn needed(self) -> Result<Self, String> {
        if self.places.is_some() && self.sent.is_empty() {
            Ok(Self { rounds: Some(Axes::NONE), ..Self::default() })
        } else {
            Err("counts rounds of what is not the own tokens".into())
        }
    }

    /// Axes along which ranks agree on this number of rounds.
    pub(super) fn agreed(self) -> Axes {
        self.rounds.unwrap_or_default()
    }

    /// The largest number of rounds along `axes`, if it is one.
    pub(super) fn agreed_over(self, axes: Axes) -> Self {
        Self { rounds: self.rounds.map(|known| known.or(axes)), ..self }
    }

    /// Rows that ranks along `axes` exchanged: they are where their experts are, or back.
    pub(super) fn exchanged(self, axes: Axes) -> Result<Self, String> {
        let there = if self.sent.is_empty() { axes } else { Axes::NONE };
        if self.places.is_some() || self.rounds.is_some() || !self.sent.is_empty() && self.sent != axes {
            return Err("exchanges what are no rows, or over other axes than before".into());
        }
        Ok(Self { sent: there, ..self })
    }

    /// Axes over which rows are where their experts are.
    pub(super) fn sent(self) -> Axes {
        self.sent
    }

    /// Axes that cut the experts of spans among rows that were sent.
    pub(super) fn holders(self) -> Option<Axes> {
        (self.places.is_some() && !self.sent.is_empty()).then(|| self.sent.or(self.window))
    }

    /// Whether it may be ids: of tokens, or of rows that arrived.
    fn may_be_sorted(self) -> bool {
        self == Self::default() || self.places.is_none() && self.rounds.is_none() && !self.sent.is_empty()
    }

    /// Whether ranks may do `kind` with the value: take their part of the spans, add up what is partial in every row, send rows, or
    /// agree on rounds.
    pub(super) fn may(self, kind: CollectiveKind) -> bool {
        match kind {
            CollectiveKind::OwnPart { .. } => self.window.is_empty(),
            CollectiveKind::AllReduce { reduce: ReduceKind::Sum } => self.places.is_none() && self.rounds.is_none(),
            CollectiveKind::AllReduce { reduce: ReduceKind::Max } => {
                self == Self { rounds: self.rounds, ..Self::default() }
            }
            CollectiveKind::AllToAll { cut: 0, join: 0 } => self.places.is_none() && self.rounds.is_none(),
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
