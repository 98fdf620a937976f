// RUN: athanor opt --passes autodiff %s | FileCheck %s

// silu has a slope of its own, eˣ is its own slope, and a quotient has two gradients; the gradients of two uses are
// added.
// CHECK-LABEL: func.func @micro(
// CHECK: %[[S:.*]] = "nn.silu"(%arg0)
// CHECK: %[[E:.*]] = "nn.exp"(%arg0)
// CHECK: %[[Q:.*]] = "nn.div"(%[[S]], %[[E]])
// CHECK: %[[SEED:.*]] = "nn.constant"() {value = 1.000000e+00 : f64} : () -> tensor<f32>
// CHECK: %[[DQ:.*]] = "nn.broadcast"(%[[SEED]]) {dims = array<i64>} : (tensor<f32>) -> tensor<4xf32>
// CHECK: %[[DS:.*]] = "nn.div"(%[[DQ]], %[[E]])
// CHECK: %[[PART:.*]] = "nn.mul"(%[[DS]], %[[Q]])
// CHECK: %[[DE:.*]] = "nn.neg"(%[[PART]])
// CHECK: %[[BYE:.*]] = "nn.mul"(%[[DE]], %[[E]])
// CHECK: %[[SLOPE:.*]] = "nn.silu_grad"(%arg0)
// CHECK: %[[BYS:.*]] = "nn.mul"(%[[DS]], %[[SLOPE]])
// CHECK: %[[DW:.*]] = "nn.add"(%[[BYE]], %[[BYS]])
// CHECK: return %{{.*}}, %[[DW]]
module attributes {nn.level = "model"} {
  func.func @forward(%w: tensor<4xf32> {nn.name = "w", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false})
      -> (tensor<f32> {nn.name = "loss"}) {
    %0 = "nn.silu"(%w) : (tensor<4xf32>) -> tensor<4xf32>
    %1 = "nn.exp"(%w) : (tensor<4xf32>) -> tensor<4xf32>
    %2 = "nn.div"(%0, %1) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
    %3 = "nn.reduce"(%2) {kind = "sum", dims = array<i64: 0>} : (tensor<4xf32>) -> tensor<f32>
    return %3 : tensor<f32>
  }
}
