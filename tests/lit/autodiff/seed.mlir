// RUN: athanor opt --passes autodiff %s | FileCheck %s

// The loss of one of four micro-batches counts a quarter.
// CHECK-LABEL: func.func @micro(
// CHECK: %[[SEED:.*]] = "nn.constant"() {value = 2.500000e-01 : f64} : () -> tensor<f32>
// CHECK: %[[DW:.*]] = "nn.broadcast"(%[[SEED]])
// CHECK: return %{{.*}}, %[[DW]]
module attributes {nn.level = "model", nn.run = {accumulation = 4}} {
  func.func @forward(%w: tensor<4xf32> {nn.name = "w", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false})
      -> (tensor<f32> {nn.name = "loss"}) {
    %0 = "nn.reduce"(%w) {kind = "sum", dims = array<i64: 0>} : (tensor<4xf32>) -> tensor<f32>
    return %0 : tensor<f32>
  }
}
