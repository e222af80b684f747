//! The host's numbers on the device.

use candle_core::Result;
use mixce_kernels::upload;

use crate::cuda;

/// More than both of the buffers hold that such copies go through, in arrays of which one is larger than a buffer; the host's own are gone before
/// the device's are read.
#[test]
fn what_is_uploaded_arrives_though_its_buffer_is_used_again() -> Result<()> {
    const MILLION: usize = 1_000_000;
    let lengths =
        [0, 1, 15, 16, 17, MILLION, MILLION, MILLION, 5, MILLION, 2_200_000, 3, MILLION, MILLION, 7];
    let numbers = |array: usize| -> Vec<u32> {
        (0..lengths[array]).map(|i| (i as u32).wrapping_mul(2_654_435_761) ^ array as u32).collect()
    };
    let tensors = (0..lengths.len()).map(|array| upload(&numbers(array), lengths[array], &cuda()?));
    for (array, tensor) in tensors.collect::<Result<Vec<_>>>()?.iter().enumerate() {
        assert!(tensor.to_vec1::<u32>()? == numbers(array), "array {array} of {} numbers", lengths[array]);
    }
    let matrix = upload(&[1, 2, 3, 4, 5, 6], (2, 3), &cuda()?)?;
    assert_eq!(matrix.to_vec2::<u32>()?, [[1, 2, 3], [4, 5, 6]]);
    assert!(upload(&[1, 2, 3], (2, 3), &cuda()?).is_err(), "3 numbers are no matrix of 6");
    Ok(())
}
