// RUN: athanor opt --passes partition %s | FileCheck %s

// Each rank has half of every sequence. For attention it gets all tokens of one of the two heads from the other rank, and gives
// the tokens of that head back; the labels one further are made of all labels.
// CHECK-LABEL: func.func @forward(
// CHECK: tensor<1x4x6xf32> {nn.cut = {{\[\[}}], ["up"], []]
// CHECK: %[[Q:.*]] = "nn.all_to_all"(%{{.*}}) {axes = "up", cut = 2 : i64, join = 1 : i64, ranks = 2 : i64} : (tensor<1x4x2x4xf32>) -> tensor<1x8x1x4xf32>
// CHECK: %[[Y:.*]]:2 = "nn.attention"(%[[Q]], %[[Q]], %[[Q]])
// CHECK: "nn.all_to_all"(%[[Y]]#0) {axes = "up", cut = 1 : i64, join = 2 : i64, ranks = 2 : i64} : (tensor<1x8x1x4xf32>) -> tensor<1x4x2x4xf32>
// CHECK: %[[ALL:.*]] = "nn.all_gather"(%{{.*}}) {axes = "up", dim = 1 : i64, ranks = 2 : i64} : (tensor<1x4xi32>) -> tensor<1x8xi32>
// CHECK: "nn.slice"(%[[ALL]])
// CHECK: %[[NEXT:.*]] = "nn.concat"
// CHECK: "nn.own_part"(%[[NEXT]]) {axes = "up", dim = 1 : i64, ranks = 2 : i64} : (tensor<1x8xi32>) -> tensor<1x4xi32>
module attributes {nn.mesh = [["up", 2]]} {
  func.func @forward(
      %x: tensor<1x8x6xf32> {nn.name = "x", nn.role = "input"},
      %labels: tensor<1x8xi32> {nn.name = "labels", nn.role = "input"},
      %wq: tensor<8x6xf32> {nn.name = "q", nn.role = "weight", nn.init = {normal = 0.02 : f64}, nn.decay = true})
      -> (tensor<1x8xf32> {nn.name = "loss"}) {
    %0 = "nn.einsum"(%x, %wq) {spec = "bsh,kh->bsk"} : (tensor<1x8x6xf32>, tensor<8x6xf32>) -> tensor<1x8x8xf32>
    %1 = "nn.reshape"(%0) : (tensor<1x8x8xf32>) -> tensor<1x8x2x4xf32>
    %2:2 = "nn.attention"(%1, %1, %1) {scale = 0.5 : f64, causal = true, alibi = false} : (tensor<1x8x2x4xf32>, tensor<1x8x2x4xf32>, tensor<1x8x2x4xf32>) -> (tensor<1x8x2x4xf32>, tensor<1x2x8xf32>)
    %3 = "nn.reshape"(%2#0) : (tensor<1x8x2x4xf32>) -> tensor<1x8x8xf32>
    %4 = "nn.slice"(%labels) {dim = 1 : i64, start = 1 : i64, len = 7 : i64} : (tensor<1x8xi32>) -> tensor<1x7xi32>
    %5 = "nn.constant"() {value = 0.0 : f64} : () -> tensor<1x1xi32>
    %t = builtin.unrealized_conversion_cast %4, %5 : tensor<1x7xi32>, tensor<1x1xi32> to tuple<tensor<1x7xi32>, tensor<1x1xi32>>
    %6 = "nn.concat"(%t) {dim = 1 : i64} : (tuple<tensor<1x7xi32>, tensor<1x1xi32>>) -> tensor<1x8xi32>
    %7:2 = "nn.cross_entropy"(%3, %6) : (tensor<1x8x8xf32>, tensor<1x8xi32>) -> (tensor<1x8xf32>, tensor<1x8xf32>)
    return %7#0 : tensor<1x8xf32>
  }
}
