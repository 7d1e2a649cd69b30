"""How each kind of operation is carried out.

*tree*
    A root file system or folder held open by a descriptor; paths in it cannot lead out (``tree``).
*selection*
    What a COPY's source names in a tree (``select``); its checksum is the cache's view of it.
"""
