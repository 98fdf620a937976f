// RUN: athanor opt --passes partition %s | FileCheck %s

// Keys, which are values too, go from rank to rank. Attention to the own ones comes first, in f32 to be gone on from; then to those of
// the rank before, which are asked for before the own ones are used.
// CHECK-LABEL: func.func @forward(
// CHECK: %[[Q:.*]] = "nn.reshape"(%{{.*}}) : (tensor<1x4x8xbf16>) -> tensor<1x4x2x4xbf16>
// CHECK: %[[NEXT:.*]] = "nn.shift"(%[[Q]]) {axes = "cp", ranks = 2 : i64} : (tensor<1x4x2x4xbf16>) -> tensor<1x4x2x4xbf16>
// CHECK: %[[OWN:.*]]:2 = "nn.attention"(%[[Q]], %[[Q]], %[[Q]])
// CHECK-SAME: -> (tensor<1x4x2x4xf32>, tensor<1x2x4xf32>)
// CHECK: %[[ZERO:.*]] = "nn.constant"() {value = 0.000000e+00 : f64} : () -> tensor<i32>
// CHECK: %[[FIRST:.*]] = "nn.block_ids"(%[[ZERO]]) {axes = "cp", back = 1 : i64, ranks = 2 : i64, size = 4 : i64} : (tensor<i32>) -> tensor<i32>
// CHECK: "nn.attention_step"(%[[Q]], %[[NEXT]], %[[NEXT]], %[[FIRST]], %[[OWN]]#0, %[[OWN]]#1)
// CHECK-SAME: -> (tensor<1x4x2x4xbf16>, tensor<1x2x4xf32>)
module attributes {nn.mesh = [["cp", 2]], nn.run = {keys = "ring"}} {
  func.func @forward(
      %x: tensor<1x8x6xbf16> {nn.name = "x", nn.role = "input"},
      %wq: tensor<8x6xbf16> {nn.name = "q", nn.role = "weight", nn.init = {normal = 0.02 : f64}, nn.decay = true})
      -> (tensor<1x8x8xbf16> {nn.name = "y"}) {
    %0 = "nn.einsum"(%x, %wq) {spec = "bsh,kh->bsk"} : (tensor<1x8x6xbf16>, tensor<8x6xbf16>) -> tensor<1x8x8xbf16>
    %1 = "nn.reshape"(%0) : (tensor<1x8x8xbf16>) -> tensor<1x8x2x4xbf16>
    %2:2 = "nn.attention"(%1, %1, %1) {scale = 0.5 : f64, causal = true, alibi = false} : (tensor<1x8x2x4xbf16>, tensor<1x8x2x4xbf16>, tensor<1x8x2x4xbf16>) -> (tensor<1x8x2x4xbf16>, tensor<1x2x8xf32>)
    %3 = "nn.reshape"(%2#0) : (tensor<1x8x2x4xbf16>) -> tensor<1x8x8xbf16>
    return %3 : tensor<1x8x8xbf16>
  }
}
