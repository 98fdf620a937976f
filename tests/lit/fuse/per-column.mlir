// RUN: athanor opt --passes fuse %s | FileCheck %s

// A kernel over rows stores elements, values per row and sums over rows, but no value per column: the gain that is
// returned is computed apart.
// CHECK-LABEL: func.func @f(
// CHECK: %[[T:.*]] = "nn.tanh"(%arg1)
// CHECK: %[[R:.*]] = {{.*}}(%arg0, %[[T]])
// CHECK: return %[[R]], %[[T]]
func.func @f(%x: tensor<8x64xf32>, %gain: tensor<64xf32>) -> (tensor<8x64xf32>, tensor<64xf32>) {
  %0 = "nn.tanh"(%gain) : (tensor<64xf32>) -> tensor<64xf32>
  %1 = "nn.broadcast"(%0) {dims = array<i64: 1>} : (tensor<64xf32>) -> tensor<8x64xf32>
  %2 = "nn.mul"(%x, %1) : (tensor<8x64xf32>, tensor<8x64xf32>) -> tensor<8x64xf32>
  return %2, %0 : tensor<8x64xf32>, tensor<64xf32>
}
