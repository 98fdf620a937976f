// RUN: athanor opt --passes autodiff %s | FileCheck %s

// Calls are replaced by what they call, and functions that are called no more go.
// CHECK-LABEL: func.func @micro(
// CHECK-NOT: call @
// CHECK: "nn.tanh"(%arg0)
// CHECK: "nn.square"
// CHECK: return
// CHECK-NOT: func.func @layer
module attributes {nn.level = "model"} {
  func.func @forward(%w: tensor<4xf32> {nn.name = "w", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false})
      -> (tensor<f32> {nn.name = "loss"}) {
    %0 = func.call @layer(%w) : (tensor<4xf32>) -> tensor<4xf32>
    %1 = "nn.reduce"(%0) {kind = "sum", dims = array<i64: 0>} : (tensor<4xf32>) -> tensor<f32>
    return %1 : tensor<f32>
  }
  func.func @layer(%x: tensor<4xf32>) -> tensor<4xf32> {
    %0 = "nn.tanh"(%x) : (tensor<4xf32>) -> tensor<4xf32>
    return %0 : tensor<4xf32>
  }
}
