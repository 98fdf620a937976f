// RUN: athanor opt --passes partition %s | FileCheck %s
// RUN: athanor opt --passes partition %s | athanor opt - --passes dce | FileCheck %s

// Two ranks share four experts and exchange rows: each sorts its own two tokens. Four slots are two rows for each rank, and there is
// room for all four. Ranks agree on the number of rounds.
// CHECK-LABEL: func.func @forward(
// CHECK: %[[SORTED:.*]]:2 = "nn.assign"(%{{.*}}) {capacity = 0 : i64, experts = 4 : i64} : (tensor<2x2xi32>) -> (tensor<2x2xi32>, tensor<4x2xi32>)
// CHECK: %[[SPANS:.*]] = "nn.reshape"(%[[SORTED]]#1) : (tensor<4x2xi32>) -> tensor<2x2x2xi32>
// CHECK: %[[OWN:.*]] = "nn.rounds"(%[[SPANS]]) {capacity = 4 : i64} : (tensor<2x2x2xi32>) -> tensor<i32>
// CHECK: %[[ROUNDS:.*]] = "nn.all_reduce"(%[[OWN]]) {axes = "ep", kind = "max", ranks = 2 : i64}
// CHECK: "nn.repeat"({{.*}}) {callee = "experts_0"}
// CHECK-NOT: all_gather

// A round sends rows with the numbers of their experts, sorts what arrives, and sends back what becomes of it.
// CHECK-LABEL: func.func @experts_0(
// CHECK: %[[GO:.*]]:2 = "nn.portion"({{.*}}) {capacity = 4 : i64} : ({{.*}}) -> (tensor<2x2xi32>, tensor<8x1xi32>)
// CHECK: %[[IDS:.*]] = "nn.all_to_all"(%[[GO]]#1) {axes = "ep", cut = 0 : i64, join = 0 : i64, ranks = 2 : i64}
// CHECK: %[[CAME:.*]]:2 = "nn.assign"(%[[IDS]]) {capacity = 0 : i64, experts = 3 : i64} : (tensor<8x1xi32>) -> (tensor<8x1xi32>, tensor<3x2xi32>)
// CHECK: %[[MINE:.*]] = "nn.slice"(%[[CAME]]#1) {dim = 0 : i64, len = 2 : i64, start = 0 : i64}
// CHECK: %[[SENT:.*]] = "nn.dispatch"(%{{.*}}, %[[GO]]#0) {rows = 8 : i64} : (tensor<2x3xf32>, tensor<2x2xi32>) -> tensor<8x3xf32>
// CHECK: %[[GOT:.*]] = "nn.all_to_all"(%[[SENT]])
// CHECK: %[[ROWS:.*]] = "nn.dispatch"(%[[GOT]], %[[CAME]]#0) {rows = 8 : i64} : (tensor<8x3xf32>, tensor<8x1xi32>) -> tensor<8x3xf32>
// CHECK: %[[Y:.*]] = "nn.grouped_einsum"(%[[ROWS]], %{{.*}}, %[[MINE]])
// CHECK: %[[LEAVES:.*]] = "nn.combine"(%[[Y]], %[[CAME]]#0) : (tensor<8x5xf32>, tensor<8x1xi32>) -> tensor<8x5xf32>
// CHECK: %[[BACK:.*]] = "nn.all_to_all"(%[[LEAVES]])
// CHECK: %[[NEW:.*]] = "nn.combine"(%[[BACK]], %[[GO]]#0) : (tensor<8x5xf32>, tensor<2x2xi32>) -> tensor<2x5xf32>
// CHECK: %[[SUM:.*]] = "nn.add"(%{{.*}}, %[[NEW]])
// CHECK: return %[[SUM]]
module attributes {nn.mesh = [["ep", 2]], nn.run = {expert_exchange = {rows = "exchanged", factor = 1.5 : f64}}} {
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
