// RUN: athanor opt --passes "bucket{most=32}" %s | FileCheck %s
// RUN: athanor opt --passes "bucket{most=8}" %s | FileCheck %s --check-prefix=APART

// Two gradients of eight and three elements are summed over the replicas at once, and cut out of the sum again; one of nine
// elements is too large, and one that is summed over other ranks stays apart, as all do that a smaller limit excludes.
// CHECK-LABEL: func.func @update(
// CHECK: %[[LARGE:.*]] = "nn.all_reduce"(%{{.*}}) {axes = "dp", kind = "sum", ranks = 2 : i64} : (tensor<3x3xf32>)
// CHECK: %[[A:.*]] = "nn.reshape"(%{{.*}}) : (tensor<2x4xf32>) -> tensor<8xf32>
// CHECK: %[[ALL:.*]] = "nn.concat"(%{{.*}}) {dim = 0 : i64} : (tuple<tensor<8xf32>, tensor<3xf32>>)
// CHECK: %[[SUM:.*]] = "nn.all_reduce"(%[[ALL]]) {axes = "dp", kind = "sum", ranks = 2 : i64} : (tensor<11xf32>) -> tensor<11xf32>
// CHECK: %[[FIRST:.*]] = "nn.slice"(%[[SUM]]) {dim = 0 : i64, len = 8 : i64, start = 0 : i64}
// CHECK: %[[OUT:.*]] = "nn.reshape"(%[[FIRST]]) : (tensor<8xf32>) -> tensor<2x4xf32>
// CHECK: "nn.slice"(%[[SUM]]) {dim = 0 : i64, len = 3 : i64, start = 8 : i64}
// CHECK: "nn.all_reduce"(%{{.*}}) {axes = "tp", kind = "sum", ranks = 2 : i64} : (tensor<3xf32>)
// CHECK: return %[[LARGE]], %[[OUT]]
// APART-NOT: nn.concat
module attributes {nn.mesh = [["dp", 2], ["tp", 2]]} {
  func.func @update(
      %a: tensor<3x3xf32> {nn.name = "grad.a", nn.partial = ["dp"], nn.role = "grad"},
      %b: tensor<2x4xf32> {nn.name = "grad.b", nn.partial = ["dp"], nn.role = "grad"},
      %c: tensor<3xf32> {nn.name = "grad.c", nn.partial = ["dp"], nn.role = "grad"},
      %d: tensor<3xf32> {nn.name = "grad.d", nn.partial = ["tp"], nn.role = "grad"})
      -> (tensor<3x3xf32> {nn.name = "grad.a"}, tensor<2x4xf32> {nn.name = "grad.b"}, tensor<3xf32> {nn.name = "grad.c"},
          tensor<3xf32> {nn.name = "grad.d"}) {
    %0 = "nn.all_reduce"(%a) {axes = "dp", kind = "sum", ranks = 2 : i64} : (tensor<3x3xf32>) -> tensor<3x3xf32>
    %1 = "nn.all_reduce"(%b) {axes = "dp", kind = "sum", ranks = 2 : i64} : (tensor<2x4xf32>) -> tensor<2x4xf32>
    %2 = "nn.all_reduce"(%c) {axes = "dp", kind = "sum", ranks = 2 : i64} : (tensor<3xf32>) -> tensor<3xf32>
    %3 = "nn.all_reduce"(%d) {axes = "tp", kind = "sum", ranks = 2 : i64} : (tensor<3xf32>) -> tensor<3xf32>
    return %0, %1, %2, %3 : tensor<3x3xf32>, tensor<2x4xf32>, tensor<3xf32>, tensor<3xf32>
  }
}
