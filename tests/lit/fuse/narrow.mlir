// RUN: athanor opt --passes fuse %s | FileCheck %s

// A bf16 product that is widened is kept in f32, as it was accumulated; the loss and its gradient read bf16 logits and
// round their own result.
// CHECK-LABEL: func.func @f(
// CHECK-DAG: "nn.einsum"(%arg0, %arg1) {spec = "bh,kh->bk"} : (tensor<4x8xbf16>, tensor<96x8xbf16>) -> tensor<4x96xf32>
// CHECK-DAG: %[[CE:.*]]:2 = "nn.cross_entropy"(%arg2, %arg3) : (tensor<4x96xbf16>, tensor<4xi32>) -> (tensor<4xf32>, tensor<4xf32>)
// CHECK-DAG: %[[D:.*]] = "nn.cross_entropy_grad"(%arg2, %arg3, %[[CE]]#1, %arg4) : {{.*}} -> tensor<4x96xbf16>
// CHECK-NOT: nn.cast
// CHECK: return
func.func @f(%x: tensor<4x8xbf16>, %w: tensor<96x8xbf16>, %logits: tensor<4x96xbf16>, %labels: tensor<4xi32>, %d: tensor<4xf32>)
    -> (tensor<4x96xf32>, tensor<4xf32>, tensor<4x96xbf16>) {
  %0 = "nn.einsum"(%x, %w) {spec = "bh,kh->bk"} : (tensor<4x8xbf16>, tensor<96x8xbf16>) -> tensor<4x96xbf16>
  %1 = "nn.cast"(%0) : (tensor<4x96xbf16>) -> tensor<4x96xf32>
  %2 = "nn.cast"(%logits) : (tensor<4x96xbf16>) -> tensor<4x96xf32>
  %3:2 = "nn.cross_entropy"(%2, %labels) : (tensor<4x96xf32>, tensor<4xi32>) -> (tensor<4xf32>, tensor<4xf32>)
  %4 = "nn.cross_entropy_grad"(%2, %labels, %3#1, %d) : (tensor<4x96xf32>, tensor<4xi32>, tensor<4xf32>, tensor<4xf32>) -> tensor<4x96xf32>
  %5 = "nn.cast"(%4) : (tensor<4x96xf32>) -> tensor<4x96xbf16>
  return %1, %3#0, %5 : tensor<4x96xf32>, tensor<4xf32>, tensor<4x96xbf16>
}
