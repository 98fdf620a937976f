// RUN: athanor opt --passes autodiff %s | FileCheck %s

// The gradient of an f32 weight that is cast for a bf16 product is summed and kept in f32: it is never rounded to bf16.
// CHECK-LABEL: func.func @micro(
// CHECK: %[[DW:.*]] = "nn.einsum"(%{{.*}}, %arg0) {spec = "bk,bh->kh"} : (tensor<4x16xbf16>, tensor<4x8xbf16>) -> tensor<16x8xf32>
// CHECK: return %{{.*}}, %[[DW]]
module attributes {nn.level = "model"} {
  func.func @forward(
      %x: tensor<4x8xbf16> {nn.name = "x", nn.role = "input"},
      %w: tensor<16x8xf32> {nn.name = "w", nn.role = "weight", nn.init = {normal = 0.02 : f64}, nn.decay = true})
      -> (tensor<f32> {nn.name = "loss"}) {
    %0 = "nn.cast"(%w) : (tensor<16x8xf32>) -> tensor<16x8xbf16>
    %1 = "nn.einsum"(%x, %0) {spec = "bh,kh->bk"} : (tensor<4x8xbf16>, tensor<16x8xbf16>) -> tensor<4x16xbf16>
    %2 = "nn.cast"(%1) : (tensor<4x16xbf16>) -> tensor<4x16xf32>
    %3 = "nn.reduce"(%2) {kind = "sum", dims = array<i64: 0, 1>} : (tensor<4x16xf32>) -> tensor<f32>
    return %3 : tensor<f32>
  }
}
