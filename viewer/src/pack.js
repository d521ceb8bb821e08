export async function unpack(arrayBuffer) {}
