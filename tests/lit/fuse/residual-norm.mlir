// RUN: athanor opt --passes fuse %s | FileCheck %s

// The residual sum and its norm are one kernel that gives both.
// CHECK-LABEL: func.func @f(
// CHECK: %[[R:.*]]:2 = call @[[K:[a-z0-9_]+]]({{.*}}) : ({{.*}}) -> (tensor<2x8x16xf32>, tensor<2x8x16xf32>)
// CHECK-NEXT: %[[P:.*]] = "nn.einsum"(%[[R]]#1, %arg3)
// CHECK-NEXT: return %[[R]]#0, %[[P]]
// CHECK: func.func @[[K]](
// CHECK: %[[SUM:.*]] = "nn.add"
// CHECK: %[[NORM:.*]] = "nn.rms_norm"(%[[SUM]],
// CHECK: return %[[SUM]], %[[NORM]]
func.func @f(%x: tensor<2x8x16xf32>, %y: tensor<2x8x16xf32>, %gain: tensor<16xf32>, %w: tensor<4x16xf32>)
    -> (tensor<2x8x16xf32>, tensor<2x8x4xf32>) {
  %0 = "nn.add"(%x, %y) : (tensor<2x8x16xf32>, tensor<2x8x16xf32>) -> tensor<2x8x16xf32>
  %1 = "nn.rms_norm"(%0, %gain) {eps = 1.0e-5 : f64} : (tensor<2x8x16xf32>, tensor<16xf32>) -> tensor<2x8x16xf32>
  %2 = "nn.einsum"(%1, %w) {spec = "bsh,kh->bsk"} : (tensor<2x8x16xf32>, tensor<4x16xf32>) -> tensor<2x8x4xf32>
  return %0, %2 : tensor<2x8x16xf32>, tensor<2x8x4xf32>
}
