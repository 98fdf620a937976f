// RUN: athanor opt --passes 'fuse{loss-blocks=2}' %s | FileCheck %s
// RUN: athanor opt --passes fuse %s | FileCheck %s --check-prefix WHOLE

// The loss runs over blocks of tokens: logits of one block at a time, the gradient of the weight summed on the way.
// CHECK-LABEL: func.func @micro(
// CHECK-NOT: tensor<4x6x96xf32>
// CHECK: %[[L0:.*]] = "nn.einsum"(%[[X0:.*]], %arg1) {spec = "ah,vh->av"} : (tensor<12x8xf32>, tensor<96x8xf32>) -> tensor<12x96xf32>
// CHECK: "nn.cross_entropy"(%[[L0]]
// CHECK: %[[D0:.*]] = "nn.cross_entropy_grad"(%[[L0]]
// CHECK-DAG: %[[W0:.*]] = "nn.einsum"(%[[D0]], %[[X0]]) {spec = "av,ah->vh"}
// CHECK-DAG: %[[DX0:.*]] = "nn.einsum"(%[[D0]], %arg1) {spec = "av,vh->ah"}
// CHECK: %[[L1:.*]] = "nn.einsum"
// CHECK: %[[D1:.*]] = "nn.cross_entropy_grad"(%[[L1]]
// CHECK-DAG: %[[DX1:.*]] = "nn.einsum"(%[[D1]], %arg1) {spec = "av,vh->ah"}
// CHECK-DAG: %[[W1:.*]] = "nn.einsum"(%[[D1]], %{{.*}}, %[[W0]]) {spec = "av,ah->vh"}
// CHECK-DAG: %[[DX:.*]] = "nn.concat"(%[[DX0]], %[[DX1]]) {dim = 0 : i64}
// CHECK: return %{{.*}}, %[[W1]], %{{.*}}

// WHOLE: "nn.einsum"(%arg0, %arg1) {spec = "bsh,vh->bsv"} : {{.*}} -> tensor<4x6x96xf32>
// WHOLE-NOT: nn.concat
func.func @micro(%x: tensor<4x6x8xf32>, %w: tensor<96x8xf32>, %labels: tensor<4x6xi32>, %d: tensor<4x6xf32>)
    -> (tensor<4x6xf32>, tensor<96x8xf32>, tensor<4x6x8xf32>) {
  %0 = "nn.einsum"(%x, %w) {spec = "bsh,vh->bsv"} : (tensor<4x6x8xf32>, tensor<96x8xf32>) -> tensor<4x6x96xf32>
  %1:2 = "nn.cross_entropy"(%0, %labels) : (tensor<4x6x96xf32>, tensor<4x6xi32>) -> (tensor<4x6xf32>, tensor<4x6xf32>)
  %2 = "nn.cross_entropy_grad"(%0, %labels, %1#1, %d) : (tensor<4x6x96xf32>, tensor<4x6xi32>, tensor<4x6xf32>, tensor<4x6xf32>) -> tensor<4x6x96xf32>
  %3 = "nn.einsum"(%2, %w) {spec = "bsv,vh->bsh"} : (tensor<4x6x96xf32>, tensor<96x8xf32>) -> tensor<4x6x8xf32>
  %4 = "nn.einsum"(%2, %x) {spec = "bsv,bsh->vh"} : (tensor<4x6x96xf32>, tensor<4x6x8xf32>) -> tensor<96x8xf32>
  return %1#0, %4, %3 : tensor<4x6xf32>, tensor<96x8xf32>, tensor<4x6x8xf32>
}
