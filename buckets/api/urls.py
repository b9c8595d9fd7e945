from django.urls import path, register_converter

from buckets.api import content, views
from buckets.api.converters import KeyConverter

register_converter(KeyConverter, "key")

urlpatterns = [
    path("buckets", views.Buckets.as_view(), name="buckets"),
    path("buckets/<str:bucket>", views.BucketDetail.as_view(), name="bucket"),
    path("buckets/<str:bucket>/objects", views.Objects.as_view(), name="objects"),
    path("buckets/<str:bucket>/objects/<key:key>", views.ObjectDetail.as_view(), name="object"),
    path("buckets/<str:bucket>/content/<key:key>", content.Content.as_view(), name="content"),
    path("buckets/<str:bucket>/leases", views.Leases.as_view(), name="leases"),
    path("buckets/<str:bucket>/uploads", views.Uploads.as_view(), name="uploads"),
    path("buckets/<str:bucket>/downloads", views.Downloads.as_view(), name="downloads"),
    path("buckets/<str:bucket>/delete", views.DeleteObjects.as_view(), name="delete-objects"),
    path("uploads/<uuid:upload_id>", views.UploadDetail.as_view(), name="upload"),
]
