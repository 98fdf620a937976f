// RUN: athanor opt --passes autodiff %s | FileCheck %s

// The tanh form and the exact form of GELU have each its own slope.
// CHECK-LABEL: func.func @micro(
// CHECK: "nn.gelu"(%arg0)
// CHECK: %[[E:.*]] = "nn.gelu_erf"(%arg1)
// CHECK: %[[EXACT:.*]] = "nn.gelu_erf_grad"(%arg1)
// CHECK: %[[DV:.*]] = "nn.mul"(%{{.*}}, %[[EXACT]])
// CHECK: %[[TANH:.*]] = "nn.gelu_grad"(%arg0)
// CHECK: %[[DW:.*]] = "nn.mul"(%{{.*}}, %[[TANH]])
// CHECK: return %{{.*}}, %[[DW]], %[[DV]]
module attributes {nn.level = "model"} {
  func.func @forward(
      %w: tensor<4xf32> {nn.name = "w", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false},
      %v: tensor<4xf32> {nn.name = "v", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false})
      -> (tensor<f32> {nn.name = "loss"}) {
    %0 = "nn.gelu"(%w) : (tensor<4xf32>) -> tensor<4xf32>
    %1 = "nn.gelu_erf"(%v) : (tensor<4xf32>) -> tensor<4xf32>
    %2 = "nn.mul"(%0, %1) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
    %3 = "nn.reduce"(%2) {kind = "sum", dims = array<i64: 0>} : (tensor<4xf32>) -> tensor<f32>
    return %3 : tensor<f32>
  }
}
