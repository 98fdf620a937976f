//! Token and position embeddings.

use athanor_ir::{Op, ValueId};

use super::Net;

impl Net<'_> {
    /// Rows of the table (`weight` of the current block) for `tokens [b, s]`, f32, and the table for a tied output layer.
    pub fn embedding(&mut self, tokens: ValueId) -> (ValueId, ValueId) {
        let dims = [self.m.vocab_size.value, self.m.hidden_size.value];
        let init = self.normal();
        let table = self.weight("weight", &dims, init);
        (self.b.many(Op::Embed, &[tokens, table])[0], table)
    }

    /// A learned vector per position (`weight` of the current block), for every sequence: `[b, s, h]` f32.
    pub fn positions(&mut self) -> ValueId {
        let (max, width) = (self.m.max_position_embeddings.value, self.m.hidden_size.value);
        let init = self.normal();
        let table = self.weight("weight", &[max, width], init);
        let rows = self.b.slice(table, 0, 0, self.m.seq_length.value);
        let to = self.activation(width);
        self.b.broadcast(rows, &[1, 2], &to)
    }
}
