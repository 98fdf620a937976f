// RUN: athanor opt --passes partition %s | FileCheck %s
// RUN: athanor opt --passes partition %s | athanor opt - --passes dce | FileCheck %s

// The inner width is cut over tp: by columns in the first product, by rows in the second, whose partial sum is added up before
// anything but a sum of partial values reads it. The batch is cut over dp.
// CHECK: nn.mesh = {{\[\[}}"dp", 2], ["tp", 4]]
// CHECK-LABEL: func.func @forward(
// CHECK: tensor<3x8xf32> {nn.cut = {{\[\[}}"dp"], []], nn.name = "x", nn.role = "input"}
// CHECK: tensor<4x8xf32> {nn.cut = {{\[\[}}"tp"], []], nn.decay = true
// CHECK: tensor<8x4xf32> {nn.cut = {{\[\[}}], ["tp"]], nn.decay = true
// CHECK: %[[UP:.*]] = "nn.einsum"(%{{.*}}, %{{.*}}) {spec = "bh,kh->bk"} : (tensor<3x8xf32>, tensor<4x8xf32>) -> tensor<3x4xf32>
// CHECK: %[[ACT:.*]] = "nn.silu"(%[[UP]]) : (tensor<3x4xf32>) -> tensor<3x4xf32>
// CHECK: %[[PART:.*]] = "nn.einsum"(%[[ACT]], %{{.*}}) {spec = "bk,hk->bh"}
// CHECK: %[[SUM:.*]] = "nn.all_reduce"(%[[PART]]) {axes = "tp", kind = "sum", ranks = 4 : i64} : (tensor<3x8xf32>) -> tensor<3x8xf32>
// CHECK: "nn.tanh"(%[[SUM]])
// CHECK: %[[OWN:.*]] = "nn.reduce"
// CHECK: %[[ALL:.*]] = "nn.all_reduce"(%[[OWN]]) {axes = "dp", kind = "sum", ranks = 2 : i64} : (tensor<f32>) -> tensor<f32>
// CHECK: return %[[ALL]]
module attributes {nn.mesh = [["dp", 2], ["tp", 4]]} {
  func.func @forward(
      %x: tensor<6x8xf32> {nn.name = "x", nn.role = "input"},
      %up: tensor<16x8xf32> {nn.name = "up", nn.role = "weight", nn.init = {normal = 0.02 : f64}, nn.decay = true},
      %down: tensor<8x16xf32> {nn.name = "down", nn.role = "weight", nn.init = {normal = 0.02 : f64}, nn.decay = true})
      -> (tensor<f32> {nn.name = "loss"}) {
    %0 = "nn.einsum"(%x, %up) {spec = "bh,kh->bk"} : (tensor<6x8xf32>, tensor<16x8xf32>) -> tensor<6x16xf32>
    %1 = "nn.silu"(%0) : (tensor<6x16xf32>) -> tensor<6x16xf32>
    %2 = "nn.einsum"(%1, %down) {spec = "bk,hk->bh"} : (tensor<6x16xf32>, tensor<8x16xf32>) -> tensor<6x8xf32>
    %3 = "nn.tanh"(%2) : (tensor<6x8xf32>) -> tensor<6x8xf32>
    %4 = "nn.reduce"(%3) {kind = "sum", dims = array<i64: 0, 1>} : (tensor<6x8xf32>) -> tensor<f32>
    return %4 : tensor<f32>
  }
}
