// RUN: not athanor opt --passes autodiff %s 2>&1 | FileCheck %s
// CHECK: P0103
// CHECK: nn.silu_grad in block "mlp" cannot be differentiated
// CHECK: help:
module attributes {nn.level = "model"} {
  func.func @forward(%w: tensor<4xf32> {nn.name = "w", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false})
      -> (tensor<f32> {nn.name = "loss"}) {
    %0 = "nn.silu_grad"(%w) : (tensor<4xf32>) -> tensor<4xf32> loc("mlp")
    %1 = "nn.reduce"(%0) {kind = "sum", dims = array<i64: 0>} : (tensor<4xf32>) -> tensor<f32>
    return %1 : tensor<f32>
  }
}
