from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("volumes", "0008_tried_damage")]

    operations = [
        migrations.AddField(
            model_name="replica",
            name="detail",
            field=models.CharField(blank=True, help_text="Why its server has sealed it.", max_length=500),
        ),
    ]
