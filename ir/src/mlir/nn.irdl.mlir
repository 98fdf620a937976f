// The nn dialect. Generated from the op table (ir/src/mlir/table.rs): do not edit, run
// ATHANOR_BLESS=1 cargo test -p athanor-ir --features mlir dialect
irdl.dialect @nn {
  irdl.operation @constant {
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %value = irdl.base "#builtin.float"
    irdl.attributes {"value" = %value}
  }
  irdl.operation @neg {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @exp {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @log {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @sqrt {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @rsqrt {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @recip {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @tanh {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @sigmoid {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @silu {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @silu_grad {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @gelu {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @gelu_grad {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @gelu_erf {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @gelu_erf_grad {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @square {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @sign {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @add {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @sub {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @mul {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @div {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @max {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @min {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @cast {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @reshape {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @transpose {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %perm = irdl.base "#builtin.dense_array"
    irdl.attributes {"perm" = %perm}
  }
  irdl.operation @broadcast {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %dims = irdl.base "#builtin.dense_array"
    irdl.attributes {"dims" = %dims}
  }
  irdl.operation @slice {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %dim = irdl.base "#builtin.integer"
    %start = irdl.base "#builtin.integer"
    %len = irdl.base "#builtin.integer"
    irdl.attributes {"dim" = %dim, "start" = %start, "len" = %len}
  }
  irdl.operation @concat {
    %operand_tensor = irdl.base "!builtin.tensor"
    %operand_tuple = irdl.base "!builtin.tuple"
    %operand = irdl.any_of(%operand_tensor, %operand_tuple)
    irdl.operands(operands: variadic %operand)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %dim = irdl.base "#builtin.integer"
    irdl.attributes {"dim" = %dim}
  }
  irdl.operation @reduce {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %kind_0 = irdl.is "sum"
    %kind_1 = irdl.is "max"
    %kind = irdl.any_of(%kind_0, %kind_1)
    %dims = irdl.base "#builtin.dense_array"
    irdl.attributes {"kind" = %kind, "dims" = %dims}
  }
  irdl.operation @einsum {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    %operand_2 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1, operand_2: optional %operand_2)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %spec = irdl.base "#builtin.string"
    irdl.attributes {"spec" = %spec}
  }
  irdl.operation @embed {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @embed_grad {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %vocab = irdl.base "#builtin.integer"
    irdl.attributes {"vocab" = %vocab}
  }
  irdl.operation @rms_norm {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %eps = irdl.base "#builtin.float"
    irdl.attributes {"eps" = %eps}
  }
  irdl.operation @rms_norm_grad {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    %operand_2 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1, operand_2: %operand_2)
    %result_0 = irdl.base "!builtin.tensor"
    %result_1 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0, result_1: %result_1)
    %eps = irdl.base "#builtin.float"
    irdl.attributes {"eps" = %eps}
  }
  irdl.operation @layer_norm {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    %operand_2 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1, operand_2: %operand_2)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %eps = irdl.base "#builtin.float"
    irdl.attributes {"eps" = %eps}
  }
  irdl.operation @layer_norm_grad {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    %operand_2 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1, operand_2: %operand_2)
    %result_0 = irdl.base "!builtin.tensor"
    %result_1 = irdl.base "!builtin.tensor"
    %result_2 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0, result_1: %result_1, result_2: %result_2)
    %eps = irdl.base "#builtin.float"
    irdl.attributes {"eps" = %eps}
  }
  irdl.operation @rope_table {
    %result_0 = irdl.base "!builtin.tensor"
    %result_1 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0, result_1: %result_1)
    %inv_freq = irdl.base "#builtin.dense_array"
    %scale = irdl.base "#builtin.float"
    irdl.attributes {"inv_freq" = %inv_freq, "scale" = %scale}
  }
  irdl.operation @rope {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    %operand_2 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1, operand_2: %operand_2)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %interleaved_0 = irdl.is false
    %interleaved_1 = irdl.is true
    %interleaved = irdl.any_of(%interleaved_0, %interleaved_1)
    %inverse_0 = irdl.is false
    %inverse_1 = irdl.is true
    %inverse = irdl.any_of(%inverse_0, %inverse_1)
    irdl.attributes {"interleaved" = %interleaved, "inverse" = %inverse}
  }
  irdl.operation @attention {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    %operand_2 = irdl.base "!builtin.tensor"
    %operand_3 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1, operand_2: %operand_2, operand_3: optional %operand_3)
    %result_0 = irdl.base "!builtin.tensor"
    %result_1 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0, result_1: %result_1)
    %scale = irdl.base "#builtin.float"
    %causal_0 = irdl.is false
    %causal_1 = irdl.is true
    %causal = irdl.any_of(%causal_0, %causal_1)
    %alibi_0 = irdl.is false
    %alibi_1 = irdl.is true
    %alibi = irdl.any_of(%alibi_0, %alibi_1)
    irdl.attributes {"scale" = %scale, "causal" = %causal, "alibi" = %alibi}
  }
  irdl.operation @attention_grad {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    %operand_2 = irdl.base "!builtin.tensor"
    %operand_3 = irdl.base "!builtin.tensor"
    %operand_4 = irdl.base "!builtin.tensor"
    %operand_5 = irdl.base "!builtin.tensor"
    %operand_6 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1, operand_2: %operand_2, operand_3: %operand_3, operand_4: %operand_4, operand_5: %operand_5, operand_6: optional %operand_6)
    %result_0 = irdl.base "!builtin.tensor"
    %result_1 = irdl.base "!builtin.tensor"
    %result_2 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0, result_1: %result_1, result_2: %result_2)
    %scale = irdl.base "#builtin.float"
    %causal_0 = irdl.is false
    %causal_1 = irdl.is true
    %causal = irdl.any_of(%causal_0, %causal_1)
    %alibi_0 = irdl.is false
    %alibi_1 = irdl.is true
    %alibi = irdl.any_of(%alibi_0, %alibi_1)
    irdl.attributes {"scale" = %scale, "causal" = %causal, "alibi" = %alibi}
  }
  irdl.operation @attention_step {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    %operand_2 = irdl.base "!builtin.tensor"
    %operand_3 = irdl.base "!builtin.tensor"
    %operand_4 = irdl.base "!builtin.tensor"
    %operand_5 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1, operand_2: %operand_2, operand_3: %operand_3, operand_4: %operand_4, operand_5: %operand_5)
    %result_0 = irdl.base "!builtin.tensor"
    %result_1 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0, result_1: %result_1)
    %scale = irdl.base "#builtin.float"
    %alibi_0 = irdl.is false
    %alibi_1 = irdl.is true
    %alibi = irdl.any_of(%alibi_0, %alibi_1)
    irdl.attributes {"scale" = %scale, "alibi" = %alibi}
  }
  irdl.operation @attention_step_grad {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    %operand_2 = irdl.base "!builtin.tensor"
    %operand_3 = irdl.base "!builtin.tensor"
    %operand_4 = irdl.base "!builtin.tensor"
    %operand_5 = irdl.base "!builtin.tensor"
    %operand_6 = irdl.base "!builtin.tensor"
    %operand_7 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1, operand_2: %operand_2, operand_3: %operand_3, operand_4: %operand_4, operand_5: %operand_5, operand_6: %operand_6, operand_7: %operand_7)
    %result_0 = irdl.base "!builtin.tensor"
    %result_1 = irdl.base "!builtin.tensor"
    %result_2 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0, result_1: %result_1, result_2: %result_2)
    %scale = irdl.base "#builtin.float"
    %alibi_0 = irdl.is false
    %alibi_1 = irdl.is true
    %alibi = irdl.any_of(%alibi_0, %alibi_1)
    irdl.attributes {"scale" = %scale, "alibi" = %alibi}
  }
  irdl.operation @cross_entropy {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1)
    %result_0 = irdl.base "!builtin.tensor"
    %result_1 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0, result_1: %result_1)
  }
  irdl.operation @cross_entropy_grad {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    %operand_2 = irdl.base "!builtin.tensor"
    %operand_3 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1, operand_2: %operand_2, operand_3: %operand_3)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @part_entropy {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1)
    %result_0 = irdl.base "!builtin.tensor"
    %result_1 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0, result_1: %result_1)
  }
  irdl.operation @part_entropy_grad {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    %operand_2 = irdl.base "!builtin.tensor"
    %operand_3 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1, operand_2: %operand_2, operand_3: %operand_3)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @route {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: optional %operand_1)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %k = irdl.base "#builtin.integer"
    %groups = irdl.base "#builtin.integer"
    %group_k = irdl.base "#builtin.integer"
    %group_top = irdl.base "#builtin.integer"
    %mask_0 = irdl.is "zero"
    %mask_1 = irdl.is "neg_inf"
    %mask = irdl.any_of(%mask_0, %mask_1)
    irdl.attributes {"k" = %k, "groups" = %groups, "group_k" = %group_k, "group_top" = %group_top, "mask" = %mask}
  }
  irdl.operation @pick {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @pick_grad {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %n = irdl.base "#builtin.integer"
    irdl.attributes {"n" = %n}
  }
  irdl.operation @histogram {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %bins = irdl.base "#builtin.integer"
    irdl.attributes {"bins" = %bins}
  }
  irdl.operation @assign {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: optional %operand_1)
    %result_0 = irdl.base "!builtin.tensor"
    %result_1 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0, result_1: %result_1)
    %experts = irdl.base "#builtin.integer"
    %capacity = irdl.base "#builtin.integer"
    irdl.attributes {"experts" = %experts, "capacity" = %capacity}
  }
  irdl.operation @dispatch {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    %operand_2 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1, operand_2: optional %operand_2)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %rows = irdl.base "#builtin.integer"
    irdl.attributes {"rows" = %rows}
  }
  irdl.operation @combine {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    %operand_2 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1, operand_2: optional %operand_2)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @combine_dot {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    %operand_2 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1, operand_2: %operand_2)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @grouped_einsum {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    %operand_2 = irdl.base "!builtin.tensor"
    %operand_3 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1, operand_2: %operand_2, operand_3: optional %operand_3)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %spec = irdl.base "#builtin.string"
    irdl.attributes {"spec" = %spec}
  }
  irdl.operation @rounds {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %capacity = irdl.base "#builtin.integer"
    irdl.attributes {"capacity" = %capacity}
  }
  irdl.operation @portion {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    %operand_2 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1, operand_2: %operand_2)
    %result_0 = irdl.base "!builtin.tensor"
    %result_1 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0, result_1: %result_1)
    %capacity = irdl.base "#builtin.integer"
    irdl.attributes {"capacity" = %capacity}
  }
  irdl.operation @sum_squares {
    %operand_tensor = irdl.base "!builtin.tensor"
    %operand_tuple = irdl.base "!builtin.tuple"
    %operand = irdl.any_of(%operand_tensor, %operand_tuple)
    irdl.operands(operands: variadic %operand)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @adam_w {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    %operand_2 = irdl.base "!builtin.tensor"
    %operand_3 = irdl.base "!builtin.tensor"
    %operand_4 = irdl.base "!builtin.tensor"
    %operand_5 = irdl.base "!builtin.tensor"
    %operand_6 = irdl.base "!builtin.tensor"
    %operand_7 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1, operand_2: %operand_2, operand_3: %operand_3, operand_4: %operand_4, operand_5: %operand_5, operand_6: %operand_6, operand_7: %operand_7)
    %result_0 = irdl.base "!builtin.tensor"
    %result_1 = irdl.base "!builtin.tensor"
    %result_2 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0, result_1: %result_1, result_2: %result_2)
    %beta1 = irdl.base "#builtin.float"
    %beta2 = irdl.base "#builtin.float"
    %eps = irdl.base "#builtin.float"
    %decay = irdl.base "#builtin.float"
    irdl.attributes {"beta1" = %beta1, "beta2" = %beta2, "eps" = %eps, "decay" = %decay}
  }
  irdl.operation @all_reduce {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %kind_0 = irdl.is "sum"
    %kind_1 = irdl.is "max"
    %kind = irdl.any_of(%kind_0, %kind_1)
    %axes = irdl.base "#builtin.string"
    %ranks = irdl.base "#builtin.integer"
    irdl.attributes {"kind" = %kind, "axes" = %axes, "ranks" = %ranks}
  }
  irdl.operation @all_gather {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %dim = irdl.base "#builtin.integer"
    %axes = irdl.base "#builtin.string"
    %ranks = irdl.base "#builtin.integer"
    irdl.attributes {"dim" = %dim, "axes" = %axes, "ranks" = %ranks}
  }
  irdl.operation @reduce_scatter {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %dim = irdl.base "#builtin.integer"
    %axes = irdl.base "#builtin.string"
    %ranks = irdl.base "#builtin.integer"
    irdl.attributes {"dim" = %dim, "axes" = %axes, "ranks" = %ranks}
  }
  irdl.operation @sum_ends {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %axes = irdl.base "#builtin.string"
    %ranks = irdl.base "#builtin.integer"
    irdl.attributes {"axes" = %axes, "ranks" = %ranks}
  }
  irdl.operation @own_part {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %dim = irdl.base "#builtin.integer"
    %axes = irdl.base "#builtin.string"
    %ranks = irdl.base "#builtin.integer"
    irdl.attributes {"dim" = %dim, "axes" = %axes, "ranks" = %ranks}
  }
  irdl.operation @handover {
    %operand_tensor = irdl.base "!builtin.tensor"
    %operand_tuple = irdl.base "!builtin.tuple"
    %operand = irdl.any_of(%operand_tensor, %operand_tuple)
    irdl.operands(operands: variadic %operand)
    %result_tensor = irdl.base "!builtin.tensor"
    %result_tuple = irdl.base "!builtin.tuple"
    %result = irdl.any_of(%result_tensor, %result_tuple)
    irdl.results(results: variadic %result)
    %last_0 = irdl.is false
    %last_1 = irdl.is true
    %last = irdl.any_of(%last_0, %last_1)
    irdl.attributes {"last" = %last}
  }
  irdl.operation @keep_slice {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    %operand_2 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1, operand_2: %operand_2)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %dim = irdl.base "#builtin.integer"
    irdl.attributes {"dim" = %dim}
  }
  irdl.operation @own_slice {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %dim = irdl.base "#builtin.integer"
    %len = irdl.base "#builtin.integer"
    irdl.attributes {"dim" = %dim, "len" = %len}
  }
  irdl.operation @sum_slices {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    %operand_2 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1, operand_2: %operand_2)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %begin = irdl.base "#builtin.integer"
    irdl.attributes {"begin" = %begin}
  }
  irdl.operation @await {
    %operand_0 = irdl.base "!builtin.tensor"
    %operand_1 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0, operand_1: %operand_1)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @to_host {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @from_host {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
  }
  irdl.operation @own_ids {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %size = irdl.base "#builtin.integer"
    %axes = irdl.base "#builtin.string"
    %ranks = irdl.base "#builtin.integer"
    irdl.attributes {"size" = %size, "axes" = %axes, "ranks" = %ranks}
  }
  irdl.operation @all_to_all {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %cut = irdl.base "#builtin.integer"
    %join = irdl.base "#builtin.integer"
    %axes = irdl.base "#builtin.string"
    %ranks = irdl.base "#builtin.integer"
    irdl.attributes {"cut" = %cut, "join" = %join, "axes" = %axes, "ranks" = %ranks}
  }
  irdl.operation @shift {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %axes = irdl.base "#builtin.string"
    %ranks = irdl.base "#builtin.integer"
    irdl.attributes {"axes" = %axes, "ranks" = %ranks}
  }
  irdl.operation @block_ids {
    %operand_0 = irdl.base "!builtin.tensor"
    irdl.operands(operand_0: %operand_0)
    %result_0 = irdl.base "!builtin.tensor"
    irdl.results(result_0: %result_0)
    %size = irdl.base "#builtin.integer"
    %back = irdl.base "#builtin.integer"
    %axes = irdl.base "#builtin.string"
    %ranks = irdl.base "#builtin.integer"
    irdl.attributes {"size" = %size, "back" = %back, "axes" = %axes, "ranks" = %ranks}
  }
  irdl.operation @repeat {
    %operand_tensor = irdl.base "!builtin.tensor"
    %operand_tuple = irdl.base "!builtin.tuple"
    %operand = irdl.any_of(%operand_tensor, %operand_tuple)
    irdl.operands(operands: variadic %operand)
    %result_tensor = irdl.base "!builtin.tensor"
    %result_tuple = irdl.base "!builtin.tuple"
    %result = irdl.any_of(%result_tensor, %result_tuple)
    irdl.results(results: variadic %result)
    %callee = irdl.base "#builtin.string"
    irdl.attributes {"callee" = %callee}
  }
}
