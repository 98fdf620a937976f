// RUN: athanor opt --passes partition %s | FileCheck %s

// Ranks gather the keys of the whole sequence and keep their own queries; attention is told where the first key is, counted from
// the first query. Of four ranks two each exchange tokens for heads before.
// CHECK-LABEL: func.func @forward(
// CHECK: tensor<1x2x6xf32> {nn.cut = {{\[\[}}], ["cp", "up"], []]
// CHECK: %[[Q:.*]] = "nn.all_to_all"(%{{.*}}) {axes = "up", cut = 2 : i64, join = 1 : i64, ranks = 2 : i64} : (tensor<1x2x2x4xf32>) -> tensor<1x4x1x4xf32>
// CHECK: %[[K:.*]] = "nn.all_gather"(%[[Q]]) {axes = "cp", dim = 1 : i64, ranks = 2 : i64} : (tensor<1x4x1x4xf32>) -> tensor<1x8x1x4xf32>
// CHECK: %[[ZERO:.*]] = "nn.constant"() {value = 0.000000e+00 : f64} : () -> tensor<i32>
// CHECK: %[[FIRST:.*]] = "nn.own_ids"(%[[ZERO]]) {axes = "cp", ranks = 2 : i64, size = 4 : i64} : (tensor<i32>) -> tensor<i32>
// CHECK: "nn.attention"(%[[Q]], %[[K]], %[[K]], %[[FIRST]])
// CHECK-SAME: -> (tensor<1x4x1x4xf32>, tensor<1x1x4xf32>)
module attributes {nn.mesh = [["cp", 2], ["up", 2]]} {
  func.func @forward(
      %x: tensor<1x8x6xf32> {nn.name = "x", nn.role = "input"},
      %wq: tensor<8x6xf32> {nn.name = "q", nn.role = "weight", nn.init = {normal = 0.02 : f64}, nn.decay = true})
      -> (tensor<1x8x8xf32> {nn.name = "y"}) {
    %0 = "nn.einsum"(%x, %wq) {spec = "bsh,kh->bsk"} : (tensor<1x8x6xf32>, tensor<8x6xf32>) -> tensor<1x8x8xf32>
    %1 = "nn.reshape"(%0) : (tensor<1x8x8xf32>) -> tensor<1x8x2x4xf32>
    %2:2 = "nn.attention"(%1, %1, %1) {scale = 0.5 : f64, causal = true, alibi = false} : (tensor<1x8x2x4xf32>, tensor<1x8x2x4xf32>, tensor<1x8x2x4xf32>) -> (tensor<1x8x2x4xf32>, tensor<1x2x8xf32>)
    %3 = "nn.reshape"(%2#0) : (tensor<1x8x2x4xf32>) -> tensor<1x8x8xf32>
    return %3 : tensor<1x8x8xf32>
  }
}
