// RUN: athanor opt --passes partition %s | FileCheck %s
// RUN: athanor opt --passes partition %s | athanor opt - --passes dce | FileCheck %s

// What a product by rows leaves partial becomes each rank's part of the sum over the sequence; the residual sum and the norm run
// on parts, with the rank's own part of what is whole; parts are brought together before a product by columns.
// CHECK-LABEL: func.func @forward(
// CHECK: %[[X:[a-z0-9]*]]: tensor<3x4x6xf32> {nn.name = "x"
// CHECK: %[[DOWN:.*]] = "nn.einsum"(%{{.*}}, %{{.*}}) {spec = "bsk,hk->bsh"} : (tensor<3x4x5xf32>, tensor<6x5xf32>) -> tensor<3x4x6xf32>
// CHECK-DAG: %[[OWN:.*]] = "nn.own_part"(%[[X]]) {axes = "tp", dim = 1 : i64, ranks = 2 : i64} : (tensor<3x4x6xf32>) -> tensor<3x2x6xf32>
// CHECK-DAG: %[[PART:.*]] = "nn.reduce_scatter"(%[[DOWN]]) {axes = "tp", dim = 1 : i64, ranks = 2 : i64} : (tensor<3x4x6xf32>) -> tensor<3x2x6xf32>
// CHECK: %[[SUM:.*]] = "nn.add"(%[[OWN]], %[[PART]])
// CHECK: %[[NORM:.*]] = "nn.rms_norm"(%[[SUM]], %{{.*}}) {{.*}} -> tensor<3x2x6xf32>
// CHECK: %[[ALL:.*]] = "nn.all_gather"(%[[NORM]]) {axes = "tp", dim = 1 : i64, ranks = 2 : i64} : (tensor<3x2x6xf32>) -> tensor<3x4x6xf32>
// CHECK: "nn.einsum"(%[[ALL]], %{{.*}}) {spec = "bsh,kh->bsk"} : (tensor<3x4x6xf32>, tensor<5x6xf32>) -> tensor<3x4x5xf32>
// A sum over tokens of parts is partial: it is summed over ranks.
// CHECK: %[[SUMS:.*]] = "nn.reduce"(%[[SUM]]) {{.*}} -> tensor<f32>
// CHECK: "nn.all_reduce"(%[[SUMS]]) {axes = "tp", kind = "sum", ranks = 2 : i64}
module attributes {nn.mesh = [["tp", 2]], nn.run = {cut_sequence = "again"}} {
  func.func @forward(
      %x: tensor<3x4x6xf32> {nn.name = "x", nn.role = "input"},
      %up: tensor<10x6xf32> {nn.name = "up", nn.role = "weight", nn.init = {normal = 0.02 : f64}, nn.decay = true},
      %down: tensor<6x10xf32> {nn.name = "down", nn.role = "weight", nn.init = {normal = 0.02 : f64}, nn.decay = true},
      %gain: tensor<6xf32> {nn.name = "gain", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false})
      -> (tensor<3x4x10xf32> {nn.name = "y"}, tensor<f32> {nn.name = "sum"}) {
    %0 = "nn.einsum"(%x, %up) {spec = "bsh,kh->bsk"} : (tensor<3x4x6xf32>, tensor<10x6xf32>) -> tensor<3x4x10xf32>
    %1 = "nn.silu"(%0) : (tensor<3x4x10xf32>) -> tensor<3x4x10xf32>
    %2 = "nn.einsum"(%1, %down) {spec = "bsk,hk->bsh"} : (tensor<3x4x10xf32>, tensor<6x10xf32>) -> tensor<3x4x6xf32>
    %3 = "nn.add"(%x, %2) : (tensor<3x4x6xf32>, tensor<3x4x6xf32>) -> tensor<3x4x6xf32>
    %4 = "nn.rms_norm"(%3, %gain) {eps = 1.0e-5 : f64} : (tensor<3x4x6xf32>, tensor<6xf32>) -> tensor<3x4x6xf32>
    %5 = "nn.einsum"(%4, %up) {spec = "bsh,kh->bsk"} : (tensor<3x4x6xf32>, tensor<10x6xf32>) -> tensor<3x4x10xf32>
    %6 = "nn.reduce"(%3) {kind = "sum", dims = array<i64: 0, 1, 2>} : (tensor<3x4x6xf32>) -> tensor<f32>
    return %5, %6 : tensor<3x4x10xf32>, tensor<f32>
  }
}
