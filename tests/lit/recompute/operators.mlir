// RUN: athanor opt --passes autodiff,recompute %s | FileCheck %s

// The chosen operators' results are computed again from their operands, which the backward pass reads anyway. The tanh of
// layer 1 would need its operand instead of its result: it is kept.
// CHECK: done = {{{.*}}layers = 1 : i64{{.*}}values = 2 : i64}
// CHECK-LABEL: func.func @micro(
// CHECK: %[[S:.*]] = "nn.silu"(%[[G:[0-9]+]])
// CHECK-NEXT: %[[M:.*]] = "nn.mul"(%[[S]], %arg1)
// CHECK: "nn.tanh"
// CHECK-NOT: "nn.tanh"
// CHECK: %[[S2:.*]] = "nn.silu"(%[[G]])
// CHECK-NEXT: %[[M2:.*]] = "nn.mul"(%[[S2]], %arg1)
// CHECK-NEXT: "nn.einsum"({{.*}}%[[M2]])
// CHECK: return
module attributes {nn.level = "model", nn.run = {recompute = {operators = [
    {layers = ["model.layers.0"], paths = ["mlp.silu", "mlp.mul"]},
    {layers = ["model.layers.1"], paths = ["mlp.tanh"]}]}}} {
  func.func @forward(
      %x: tensor<4x8xf32> {nn.name = "x", nn.role = "input"},
      %up: tensor<4x8xf32> {nn.name = "up", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false},
      %a: tensor<8x8xf32> {nn.name = "a", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false},
      %b: tensor<8x8xf32> {nn.name = "b", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false})
      -> (tensor<f32> {nn.name = "loss"}) {
    %0 = "nn.einsum"(%x, %a) {spec = "bh,kh->bk"} : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32> loc("model.layers.0.mlp")
    %1 = "nn.silu"(%0) : (tensor<4x8xf32>) -> tensor<4x8xf32> loc("model.layers.0.mlp")
    %2 = "nn.mul"(%1, %up) : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<4x8xf32> loc("model.layers.0.mlp")
    %3 = "nn.einsum"(%2, %b) {spec = "bh,kh->bk"} : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32> loc("model.layers.0.mlp")
    %4 = "nn.tanh"(%3) : (tensor<4x8xf32>) -> tensor<4x8xf32> loc("model.layers.1.mlp")
    %5 = "nn.reduce"(%4) {kind = "sum", dims = array<i64: 0, 1>} : (tensor<4x8xf32>) -> tensor<f32>
    return %5 : tensor<f32>
  }
}
