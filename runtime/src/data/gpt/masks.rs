//! Loss mask, position ids and document ends of a sample.

use crate::data::{Columns, SampleMut, codes};
use athanor_ir::diag::{Diagnostic, Result};

/// What happens at ends of documents and at padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Masks {
    /// Token that ends a document.
    pub eod: i32,
    /// Padding token.
    pub pad: i32,
    /// `eod` inputs do not count in the loss.
    pub eod_mask_loss: bool,
    /// Positions restart at 0 after an `eod`.
    pub reset_position_ids: bool,
    /// Attention does not cross an `eod`.
    pub reset_attention_mask: bool,
    /// Places for document ends, 0 for none (`create_compressed_eod_mask`, `eod_pad_length`).
    pub eod_pad_length: usize,
}

impl Masks {
    /// The columns that [`Masks::apply`] writes.
    pub fn columns(&self) -> Columns {
        Columns { loss_mask: true, position_ids: self.reset_position_ids, actual_seq_len: self.eod_pad_length }
    }

    /// Fills the optional columns from `tokens` and `labels`, then replaces padding by 0.
    ///
    /// # Errors
    /// D0011 if more documents end in the sample than `actual_seq_len` has places.
    pub fn apply(&self, out: &mut SampleMut<'_>) -> Result<()> {
        for ((mask, &token), &label) in out.loss_mask.iter_mut().zip(&*out.tokens).zip(&*out.labels) {
            let masked = (self.eod_mask_loss && token == self.eod) || label == self.pad;
            *mask = if masked { 0.0 } else { 1.0 };
        }
        if self.reset_position_ids {
            let mut position = 0;
            for (slot, &token) in out.position_ids.iter_mut().zip(&*out.tokens) {
                *slot = position;
                position = if token == self.eod { 0 } else { position + 1 };
            }
        }
        if self.eod_pad_length > 0 {
            let ends = document_ends(out.tokens, self.eod);
            let found = ends.clone().count();
            if found > self.eod_pad_length {
                return Diagnostic::error(
                    &codes::EOD_MASK,
                    format!("{found} documents end inside the sample, eod_pad_length is {}", self.eod_pad_length),
                )
                .help(format!("set eod_pad_length to {} or more", found.next_power_of_two()))
                .err();
            }
            out.actual_seq_len.fill(out.tokens.len() as i32);
            out.actual_seq_len.iter_mut().zip(ends).for_each(|(slot, end)| *slot = end);
        }
        for token in out.tokens.iter_mut().chain(out.labels.iter_mut()) {
            if *token == self.pad {
                *token = 0;
            }
        }
        Ok(())
    }
}

/// Positions after each `eod` token, without one at the very end: the cumulative lengths of packed documents.
pub fn document_ends(tokens: &[i32], eod: i32) -> impl Iterator<Item = i32> + Clone {
    let inner = &tokens[..tokens.len().saturating_sub(1)];
    (1..).zip(inner).filter(move |&(_, &t)| t == eod).map(|(end, _)| end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Masks = Masks {
        eod: 1,
        pad: -1,
        eod_mask_loss: false,
        reset_position_ids: false,
        reset_attention_mask: false,
        eod_pad_length: 0,
    };

    struct Columns5 {
        tokens: Vec<i32>,
        labels: Vec<i32>,
        loss_mask: Vec<f32>,
        position_ids: Vec<i32>,
        actual_seq_len: Vec<i32>,
    }

    fn apply(masks: Masks, text: &[i32]) -> Result<Columns5> {
        let s = text.len() - 1;
        let mut c = Columns5 {
            tokens: text[..s].to_vec(),
            labels: text[1..].to_vec(),
            loss_mask: vec![0.5; s],
            position_ids: vec![-7; s],
            actual_seq_len: vec![-7; masks.eod_pad_length],
        };
        masks.apply(&mut SampleMut {
            tokens: &mut c.tokens,
            labels: &mut c.labels,
            loss_mask: &mut c.loss_mask,
            position_ids: &mut c.position_ids,
            actual_seq_len: &mut c.actual_seq_len,
        })?;
        Ok(c)
    }

    #[test]
    fn everything_counts_by_default() {
        let c = apply(PLAIN, &[5, 1, 6, 7]).unwrap();
        assert_eq!((c.loss_mask, c.labels), (vec![1.0; 3], vec![1, 6, 7]));
    }

    #[test]
    fn ends_of_documents_can_be_left_out_of_the_loss() {
        let c = apply(Masks { eod_mask_loss: true, ..PLAIN }, &[5, 1, 6, 1, 7]).unwrap();
        assert_eq!(c.loss_mask, [1.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn padding_does_not_count_and_is_fed_as_zero() {
        let c = apply(PLAIN, &[5, 6, -1, -1]).unwrap();
        assert_eq!((c.tokens, c.labels, c.loss_mask), (vec![5, 6, 0], vec![6, 0, 0], vec![1.0, 0.0, 0.0]));
    }

    #[test]
    fn positions_restart_after_each_end_of_document() {
        let c = apply(Masks { reset_position_ids: true, ..PLAIN }, &[5, 1, 6, 7, 1, 8, 9]).unwrap();
        assert_eq!(c.position_ids, [0, 1, 0, 1, 2, 0]);
    }

    #[test]
    fn document_ends_are_cumulative_without_the_final_one() {
        let masks = Masks { eod_pad_length: 3, ..PLAIN };
        assert_eq!(apply(masks, &[5, 1, 6, 1, 7]).unwrap().actual_seq_len, [2, 4, 4]);
        assert_eq!(apply(masks, &[1, 5, 6, 7, 1, 8]).unwrap().actual_seq_len, [1, 5, 5]);
        assert_eq!(apply(masks, &[1, 1, 1, 1, 5, 8]).err().unwrap().code.id, "D0011");
    }
}
