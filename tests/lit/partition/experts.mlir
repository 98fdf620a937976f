// RUN: athanor opt --passes partition %s | FileCheck %s
// RUN: athanor opt --passes partition %s | athanor opt - --passes dce | FileCheck %s

// Two ranks share four experts: they bring ids and tokens together, each multiplies the rows of its own two experts, found by
// its part of the spans, and each gets the sums of its own tokens.
// CHECK-LABEL: func.func @forward(
// CHECK: tensor<2x2xi32> {nn.cut = {{\[\[}}"ep"], []], nn.name = "ids", nn.role = "input"}
// CHECK: tensor<2x5x3xf32> {nn.cut = {{\[\[}}"ep"], [], []], nn.decay = true
// CHECK: %[[IDS:.*]] = "nn.all_gather"(%{{.*}}) {axes = "ep", dim = 0 : i64, ranks = 2 : i64} : (tensor<2x2xi32>) -> tensor<4x2xi32>
// CHECK: %[[SORTED:.*]]:2 = "nn.assign"(%[[IDS]]) {capacity = 0 : i64, experts = 4 : i64} : (tensor<4x2xi32>) -> (tensor<4x2xi32>, tensor<4x2xi32>)
// CHECK: %[[X:.*]] = "nn.all_gather"(%{{.*}}) {axes = "ep", dim = 0 : i64, ranks = 2 : i64} : (tensor<2x3xf32>) -> tensor<4x3xf32>
// CHECK: %[[ROWS:.*]] = "nn.dispatch"(%[[X]], %[[SORTED]]#0) {rows = 8 : i64}
// CHECK: %[[OWN:.*]] = "nn.own_part"(%[[SORTED]]#1) {axes = "ep", dim = 0 : i64, ranks = 2 : i64} : (tensor<4x2xi32>) -> tensor<2x2xi32>
// CHECK: %[[Y:.*]] = "nn.grouped_einsum"(%[[ROWS]], %{{.*}}, %[[OWN]]) {spec = "rk,enk->rn"} : (tensor<8x3xf32>, tensor<2x5x3xf32>, tensor<2x2xi32>) -> tensor<8x5xf32>
// CHECK: %[[BACK:.*]] = "nn.combine"(%[[Y]], %[[SORTED]]#0)
// CHECK: %[[MINE:.*]] = "nn.reduce_scatter"(%[[BACK]]) {axes = "ep", dim = 0 : i64, ranks = 2 : i64} : (tensor<4x5xf32>) -> tensor<2x5xf32>
// CHECK: return %[[MINE]]
module attributes {nn.mesh = [["ep", 2]]} {
  func.func @forward(
      %x: tensor<4x3xf32> {nn.name = "x", nn.role = "input"},
      %ids: tensor<4x2xi32> {nn.name = "ids", nn.role = "input"},
      %w: tensor<4x5x3xf32> {nn.name = "w", nn.role = "weight", nn.init = {normal = 0.02 : f64}, nn.decay = true})
      -> (tensor<4x5xf32> {nn.name = "y"}) {
    %0:2 = "nn.assign"(%ids) {experts = 4 : i64, capacity = 0 : i64} : (tensor<4x2xi32>) -> (tensor<4x2xi32>, tensor<4x2xi32>)
    %1 = "nn.dispatch"(%x, %0#0) {rows = 8 : i64} : (tensor<4x3xf32>, tensor<4x2xi32>) -> tensor<8x3xf32>
    %2 = "nn.grouped_einsum"(%1, %w, %0#1) {spec = "rk,enk->rn"} : (tensor<8x3xf32>, tensor<4x5x3xf32>, tensor<4x2xi32>) -> tensor<8x5xf32>
    %3 = "nn.combine"(%2, %0#0) : (tensor<8x5xf32>, tensor<4x2xi32>) -> tensor<4x5xf32>
    return %3 : tensor<4x5xf32>
  }
}
