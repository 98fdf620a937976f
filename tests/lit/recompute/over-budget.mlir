// RUN: not athanor opt --passes autodiff,recompute %s 2>&1 | FileCheck %s

// Weights and gradients alone take more.
// CHECK: P0401
// CHECK: every layer computed again, of 0.0 MiB that the budget has
// CHECK: help: lower `batch_size`
module attributes {nn.level = "model", nn.run = {recompute = {budget = 1000 : i64}}} {
  func.func @forward(
      %x: tensor<4x8xf32> {nn.name = "x", nn.role = "input"},
      %a: tensor<8x8xf32> {nn.name = "a", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false},
      %b: tensor<8x8xf32> {nn.name = "b", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false},
      %c: tensor<8x8xf32> {nn.name = "c", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false})
      -> (tensor<f32> {nn.name = "loss"}) {
    %0 = "nn.einsum"(%x, %a) {spec = "bh,kh->bk"} : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32> loc("model.layers.0.mlp")
    %1 = "nn.tanh"(%0) : (tensor<4x8xf32>) -> tensor<4x8xf32> loc("model.layers.0.mlp")
    %2 = "nn.einsum"(%1, %b) {spec = "bh,kh->bk"} : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32> loc("model.layers.0.mlp")
    %3 = "nn.einsum"(%2, %c) {spec = "bh,kh->bk"} : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32> loc("model.layers.1.mlp")
    %4 = "nn.tanh"(%3) : (tensor<4x8xf32>) -> tensor<4x8xf32> loc("model.layers.1.mlp")
    %5 = "nn.reduce"(%4) {kind = "sum", dims = array<i64: 0, 1>} : (tensor<4x8xf32>) -> tensor<f32>
    return %5 : tensor<f32>
  }
}
