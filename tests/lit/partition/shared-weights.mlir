// RUN: athanor opt --passes autodiff,optimizer,partition %s | FileCheck %s
// RUN: athanor opt --passes autodiff,optimizer,partition %s | athanor opt - --passes fuse | FileCheck %s --check-prefix=FUSED

// Two replicas share weights: each has half of the rows, gathers them where they are read, forward and again backward, and
// keeps its part of the gradient's sum. The step is of parts. The second weight is too small to be cut.
// CHECK-LABEL: func.func @micro(
// CHECK: tensor<4x8xf32> {nn.cut = {{\[\[}}"dp"], []], nn.decay = true, {{.*}}nn.name = "model.layers.0.w"
// CHECK: tensor<8xf32> {nn.decay = false
// CHECK: %[[W:.*]] = "nn.all_gather"(%arg1) {axes = "dp", dim = 0 : i64, ranks = 2 : i64} : (tensor<4x8xf32>) -> tensor<8x8xf32>
// CHECK-NEXT: %[[Y:.*]] = "nn.einsum"(%{{.*}}, %[[W]]) {spec = "bh,kh->bk"}
// CHECK-NOT: "nn.all_gather"
// CHECK: "nn.reduce"
// CHECK-NOT: %[[W]]
// CHECK: %[[AGAIN:.*]] = "nn.all_gather"(%arg1) {axes = "dp", dim = 0 : i64, ranks = 2 : i64} : (tensor<4x8xf32>) -> tensor<8x8xf32>
// CHECK: "nn.einsum"({{.*}}%[[AGAIN]]
// CHECK: %[[G:.*]] = "nn.einsum"({{.*}}) {spec = "{{.*}}"} : ({{.*}}) -> tensor<8x8xf32>
// CHECK-NEXT: "nn.reduce_scatter"(%[[G]]) {axes = "dp", dim = 0 : i64, ranks = 2 : i64} : (tensor<8x8xf32>) -> tensor<4x8xf32>
// CHECK-LABEL: func.func @update(
// CHECK: tensor<4x8xf32> {nn.cut = {{\[\[}}"dp"], []], nn.name = "grad.model.layers.0.w", nn.role = "grad"}
// CHECK-NOT: "nn.all_gather"
// CHECK: "nn.adam_w"({{.*}}) {{.*}} -> (tensor<4x8xf32>, tensor<4x8xf32>, tensor<4x8xf32>)
// CHECK-NOT: "nn.all_gather"

// No later pass makes one of the two.
// FUSED-LABEL: func.func @micro(
// FUSED: %[[W:.*]] = "nn.all_gather"(%arg1)
// FUSED: "nn.einsum"(%{{.*}}, %[[W]]) {spec = "bh,kh->bk"}
// FUSED-NOT: %[[W]]{{[,)]}}
// FUSED: "nn.all_gather"(%arg1)
// FUSED-NOT: %[[W]]{{[,)]}}
// FUSED-LABEL: func.func @update(
module attributes {nn.level = "model", nn.mesh = [["dp", 2]], nn.run = {sharing = {what = "weights", least = 64 : i64, over = ["dp"]}}} {
  func.func @forward(
      %x: tensor<4x8xf32> {nn.name = "x", nn.role = "input"},
      %w: tensor<8x8xf32> {nn.name = "model.layers.0.w", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = true},
      %g: tensor<8xf32> {nn.name = "model.gain", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false})
      -> (tensor<f32> {nn.name = "loss"}) {
    %0 = "nn.rms_norm"(%x, %g) {eps = 1.0e-5 : f64} : (tensor<4x8xf32>, tensor<8xf32>) -> tensor<4x8xf32>
    %1 = "nn.einsum"(%0, %w) {spec = "bh,kh->bk"} : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32> loc("model.layers.0.mlp")
    %2 = "nn.square"(%1) : (tensor<4x8xf32>) -> tensor<4x8xf32>
    %3 = "nn.reduce"(%2) {kind = "sum", dims = array<i64: 0, 1>} : (tensor<4x8xf32>) -> tensor<f32>
    return %3 : tensor<f32>
  }
}
