// RUN: athanor opt --passes simplify %s | FileCheck %s

// Two transposes are one, or none if the second undoes the first; two broadcasts are one.
// CHECK-DAG: %[[T:.*]] = "nn.transpose"(%arg0) {perm = array<i64: 2, 0, 1>} : (tensor<2x3x4xf32>) -> tensor<4x2x3xf32>
// CHECK-DAG: %[[B:.*]] = "nn.broadcast"(%arg1) {dims = array<i64: 2>} : (tensor<4xf32>) -> tensor<2x3x4xf32>
// CHECK: return %[[T]], %arg0, %[[B]]
func.func @f(%x: tensor<2x3x4xf32>, %r: tensor<4xf32>) -> (tensor<4x2x3xf32>, tensor<2x3x4xf32>, tensor<2x3x4xf32>) {
  %0 = "nn.transpose"(%x) {perm = array<i64: 1, 2, 0>} : (tensor<2x3x4xf32>) -> tensor<3x4x2xf32>
  %1 = "nn.transpose"(%0) {perm = array<i64: 1, 2, 0>} : (tensor<3x4x2xf32>) -> tensor<4x2x3xf32>
  %2 = "nn.transpose"(%0) {perm = array<i64: 2, 0, 1>} : (tensor<3x4x2xf32>) -> tensor<2x3x4xf32>
  %3 = "nn.broadcast"(%r) {dims = array<i64: 1>} : (tensor<4xf32>) -> tensor<3x4xf32>
  %4 = "nn.broadcast"(%3) {dims = array<i64: 1, 2>} : (tensor<3x4xf32>) -> tensor<2x3x4xf32>
  return %1, %2, %4 : tensor<4x2x3xf32>, tensor<2x3x4xf32>, tensor<2x3x4xf32>
}
