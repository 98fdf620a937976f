// RUN: athanor opt --passes autodiff %s | FileCheck %s

// The gradient of a product is a product of the other operand, at the location of the forward op; a weight that the
// loss does not depend on gets zeros; inputs get no gradient.
// CHECK: nn.level = "train"
// CHECK-LABEL: func.func @micro(
// CHECK: tensor<f32> {nn.name = "loss"}
// CHECK-NEXT: tensor<16x8xf32> {nn.name = "grad.w"}
// CHECK-NEXT: tensor<3xf32> {nn.name = "grad.unused"}) {
// CHECK: %[[UP:.*]] = "nn.einsum"(%arg0, %arg1) {spec = "bh,kh->bk"}
// CHECK: %[[ACT:.*]] = "nn.tanh"(%[[UP]])
// CHECK: %[[LOSS:.*]] = "nn.reduce"(%[[ACT]])
// CHECK: %[[SQ:.*]] = "nn.square"(%[[ACT]]) : {{.*}} loc("mlp.act")
// CHECK: %[[DACT:.*]] = "nn.sub"(%{{.*}}, %[[SQ]])
// CHECK: %[[DUP:.*]] = "nn.mul"(%{{.*}}, %[[DACT]])
// CHECK: %[[DW:.*]] = "nn.einsum"(%[[DUP]], %arg0) {spec = "bk,bh->kh"} : {{.*}} loc("mlp.up"("m.yaml":7:3))
// CHECK: %[[ZERO:.*]] = "nn.constant"() {value = 0.000000e+00 : f64} : () -> tensor<3xf32>
// CHECK: return %[[LOSS]], %[[DW]], %[[ZERO]]
// CHECK-NOT: @forward
module attributes {nn.level = "model"} {
  func.func @forward(
      %x: tensor<4x8xf32> {nn.name = "x", nn.role = "input"},
      %w: tensor<16x8xf32> {nn.name = "w", nn.role = "weight", nn.init = {normal = 0.02 : f64}, nn.decay = true},
      %u: tensor<3xf32> {nn.name = "unused", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false})
      -> (tensor<f32> {nn.name = "loss"}) {
    %0 = "nn.einsum"(%x, %w) {spec = "bh,kh->bk"} : (tensor<4x8xf32>, tensor<16x8xf32>) -> tensor<4x16xf32>
      loc("mlp.up"("m.yaml":7:3))
    %1 = "nn.tanh"(%0) : (tensor<4x16xf32>) -> tensor<4x16xf32> loc("mlp.act")
    %2 = "nn.reduce"(%1) {kind = "sum", dims = array<i64: 0, 1>} : (tensor<4x16xf32>) -> tensor<f32> loc("loss")
    return %2 : tensor<f32>
  }
}
