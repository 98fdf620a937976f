// RUN: athanor opt --passes autodiff %s | FileCheck %s

// The gradient goes the way back: a slice is padded with zeros, a transpose undone, repeated elements are summed.
// CHECK-LABEL: func.func @micro(
// CHECK: "nn.reduce"(%{{.*}}) {dims = array<i64: 0, 1, 2>, kind = "sum"}
// CHECK: %[[SEED:.*]] = "nn.constant"() {value = 1.000000e+00 : f64}
// CHECK: %[[ALL:.*]] = "nn.broadcast"(%[[SEED]]) {dims = array<i64>} : (tensor<f32>) -> tensor<2x2x3xf32>
// CHECK: %[[SUM:.*]] = "nn.reduce"(%[[ALL]]) {dims = array<i64: 0>, kind = "sum"} : (tensor<2x2x3xf32>) -> tensor<2x3xf32>
// CHECK: %[[BACK:.*]] = "nn.transpose"(%[[SUM]]) {perm = array<i64: 1, 0>}
// CHECK: %[[ZEROS:.*]] = "nn.constant"() {value = 0.000000e+00 : f64} : () -> tensor<1x2xf32>
// CHECK: nn.concat
// CHECK-SAME: {dim = 0 : i64}
// CHECK: %[[DW:.*]] = "nn.reshape"
// CHECK: return %{{.*}}, %[[DW]]
module attributes {nn.level = "model"} {
  func.func @forward(%w: tensor<8xf32> {nn.name = "w", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false})
      -> (tensor<f32> {nn.name = "loss"}) {
    %0 = "nn.reshape"(%w) : (tensor<8xf32>) -> tensor<4x2xf32>
    %1 = "nn.slice"(%0) {dim = 0 : i64, start = 1 : i64, len = 3 : i64} : (tensor<4x2xf32>) -> tensor<3x2xf32>
    %2 = "nn.transpose"(%1) {perm = array<i64: 1, 0>} : (tensor<3x2xf32>) -> tensor<2x3xf32>
    %3 = "nn.broadcast"(%2) {dims = array<i64: 1, 2>} : (tensor<2x3xf32>) -> tensor<2x2x3xf32>
    %4 = "nn.reduce"(%3) {kind = "sum", dims = array<i64: 0, 1, 2>} : (tensor<2x2x3xf32>) -> tensor<f32>
    return %4 : tensor<f32>
  }
}
