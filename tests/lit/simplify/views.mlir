// RUN: athanor opt --passes simplify %s | FileCheck %s

// A transpose goes into the labels of the product, a view of a view is one view, a cast to a wider type and back is
// nothing; a cast that rounds stays.
// CHECK: %0 = "nn.einsum"(%arg0, %arg1) {spec = "bh,hk->bk"} : (tensor<2x3xf32>, tensor<3x5xf32>) -> tensor<2x5xf32>
// CHECK-NEXT: %1 = "nn.reshape"(%arg0) : (tensor<2x3xf32>) -> tensor<6xf32>
// CHECK-NEXT: %2 = "nn.cast"(%arg0) : (tensor<2x3xf32>) -> tensor<2x3xbf16>
// CHECK-NEXT: %3 = "nn.cast"(%2) : (tensor<2x3xbf16>) -> tensor<2x3xf32>
// CHECK-NEXT: return %0, %1, %arg0, %3
func.func @f(%x: tensor<2x3xf32>, %w: tensor<3x5xf32>)
    -> (tensor<2x5xf32>, tensor<6xf32>, tensor<2x3xf32>, tensor<2x3xf32>) {
  %t = "nn.transpose"(%w) {perm = array<i64: 1, 0>} : (tensor<3x5xf32>) -> tensor<5x3xf32>
  %0 = "nn.einsum"(%x, %t) {spec = "bh,kh->bk"} : (tensor<2x3xf32>, tensor<5x3xf32>) -> tensor<2x5xf32>
  %1 = "nn.reshape"(%x) : (tensor<2x3xf32>) -> tensor<3x2xf32>
  %2 = "nn.reshape"(%1) : (tensor<3x2xf32>) -> tensor<6xf32>
  %3 = "nn.cast"(%x) : (tensor<2x3xf32>) -> tensor<2x3xf64>
  %4 = "nn.cast"(%3) : (tensor<2x3xf64>) -> tensor<2x3xf32>
  %5 = "nn.cast"(%x) : (tensor<2x3xf32>) -> tensor<2x3xbf16>
  %6 = "nn.cast"(%5) : (tensor<2x3xbf16>) -> tensor<2x3xf32>
  return %0, %2, %4, %6 : tensor<2x5xf32>, tensor<6xf32>, tensor<2x3xf32>, tensor<2x3xf32>
}
