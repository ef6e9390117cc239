"""The judgement of labctl.packet.checksum on any capture file, at the speed of the disk.

A file is walked record by record into batches (`reader`, `pcap`, `pcapng`), each batch is judged
with array arithmetic (`vector`), whatever has an unusual shape by the judge itself (`scalar`), and
`tally` adds up; `report` says what it means.
"""
